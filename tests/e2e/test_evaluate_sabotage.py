"""The smoke suite on vLLM: an honest FP8 checkpoint passes, each damaged one is refused for its own reason."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import pytest

from containers import suites
from containers.evaluate.judge import judge
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.measure import measure
from containers.events import Reporter
from infra.settings import Settings
from tests.support import sabotage, vllm_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from containers.evaluate.measurement import Measured
    from containers.verdict import Verdict

# A campaign: in every run test_ship.py passes an honest candidate and refuses a damaged one.
pytestmark = [pytest.mark.e2e, pytest.mark.campaign, pytest.mark.timeout(1800)]

SMOKE = suites.read("smoke")
LOADED = FidelitySuite.read(SMOKE)
SETTINGS = Settings()


def measured(url: str, *, concurrency: int = 8) -> Measured:
    options = SMOKE.options(endpoint=url, served_model_name=vllm_server.NAME, concurrency=concurrency)
    parameters = SMOKE.parameters(subject="sha256:" + "0" * 64, server="vllm-cpu")
    return asyncio.run(measure(LOADED, parameters, options, Reporter(io.StringIO())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def baseline(folder: Path) -> Measured:
    with vllm_server.served(SETTINGS, vllm_server.demo(SETTINGS), folder / "baseline.log") as url:
        return measured(url)


@pytest.fixture(scope="module")
def honest(folder: Path) -> Path:
    return vllm_server.quantized(SETTINGS, vllm_server.demo(SETTINGS), folder / "fp8")


def verdict_on(checkpoint: Path, baseline: Measured, log: Path) -> Verdict:
    with vllm_server.served(SETTINGS, checkpoint, log) as url:
        verdict = judge(LOADED, measured(url), baseline).verdict
    print(checkpoint.name, verdict.model_dump_json(indent=1))
    return verdict


def test_an_honest_checkpoint_passes_three_times(baseline: Measured, honest: Path, folder: Path) -> None:
    """However many requests are in flight: the batches that they share change the arithmetic a little."""
    with vllm_server.served(SETTINGS, honest, folder / "honest.log") as url:
        verdicts = [judge(LOADED, measured(url, concurrency=n), baseline).verdict for n in (8, 1, 3)]
    print(*(verdict.model_dump_json(indent=1) for verdict in verdicts))
    assert [verdict.decision for verdict in verdicts] == ["pass"] * 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(sabotage.scaled, "KL divergence", id="scales doubled"),
        pytest.param(sabotage.shuffled, "KL divergence", id="rows shuffled"),
        pytest.param(
            lambda a, b: sabotage.corrupted(a, b, share=0.01, finite=False),
            "no finite log-probability",
            id="bytes corrupted",
        ),
        pytest.param(sabotage.chat_template, "The chat template renders", id="chat template"),
    ],
)
def test_damage_is_refused_for_its_reason(
    baseline: Measured,
    honest: Path,
    folder: Path,
    tmp_path: Path,
    damage: Callable[[Path, Path], Path],
    reason: str,
) -> None:
    verdict = verdict_on(damage(honest, tmp_path / "damaged"), baseline, tmp_path / "vllm.log")
    assert verdict.decision == "refuse"
    assert reason in " ".join(verdict.reasons)
    if reason == "The chat template renders":
        assert not any("KL divergence" in one for one in verdict.reasons)


@pytest.mark.parametrize(("factor", "decision"), [(1.15, "refuse"), (1.05, "pass")])
def test_damage_around_the_declared_size(
    baseline: Measured, honest: Path, tmp_path: Path, factor: float, decision: str
) -> None:
    """All scales of a middle layer: 15 % is declared as seen wherever it is, and 5 % there is within what is honest."""
    damaged = sabotage.scaled(honest, tmp_path / "damaged", factor)
    assert verdict_on(damaged, baseline, tmp_path / "vllm.log").decision == decision
