"""Which environment a step gets: the lock for this machine's GPUs or its processors, or a Python of the user's own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step
from containers.errors import BadInput
from containers.fingerprints import locked_version
from infra.environments import environment
from infra.environments.environment import Environment, ensure, prepare
from infra.settings import FlowServeSettings, QuantizeSettings, Settings
from tests.support.environment_desk import Desk
from tests.support.gpus import TWO, driver
from tests.support.package_index import pin, wheel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Desk.at(tmp_path, monkeypatch)


@pytest.fixture
def asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Step, bool]]:
    """The locks that were asked for; what they all hold is one small wheel."""
    found: list[tuple[Step, bool]] = []

    def lock_of(step: Step, *, cuda: bool = False) -> Path:
        found.append((step, cuda))
        return desk.lock

    monkeypatch.setattr(environment, "lock_of", lock_of)
    return found


def name(made: Environment) -> str:
    return made.folder.name.rpartition("-")[0]


@pytest.mark.parametrize(
    ("step", "device", "made"),
    [
        (Step.QUANTIZE, "auto", "quantize-cuda"),
        (Step.SERVE, "cuda", "serve-cuda"),
        (Step.QUANTIZE, "cpu", "quantize"),
        (Step.SERVE, "cpu", "serve"),
        (Step.EVALUATE, "cuda", "evaluate"),
    ],
)
def test_the_lock_is_that_of_the_device(
    desk: Desk, asked: list[tuple[Step, bool]], monkeypatch: pytest.MonkeyPatch, step: Step, device: str, made: str
) -> None:
    """On a machine with GPUs; only what computes on them has two locks."""
    driver(desk.folder, monkeypatch, TWO)
    settings = Settings(cache=desk.folder / "cache", device=device)
    assert name(prepare(step, settings, desk.said.append)) == made
    assert asked == [(step, made.endswith("cuda"))]


def test_without_gpus_it_is_that_for_processors(
    desk: Desk, asked: list[tuple[Step, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(desk.folder))
    settings = Settings(cache=desk.folder / "cache")
    assert name(prepare(Step.SERVE, settings, desk.said.append)) == "serve"
    with pytest.raises(BadInput, match="there is no NVIDIA driver"):
        prepare(Step.SERVE, settings.model_copy(update={"device": "cuda"}), desk.said.append)
    assert asked == [(Step.SERVE, False)]


def test_what_starts_a_vllm_of_the_users_own_needs_no_vllm(desk: Desk, asked: list[tuple[Step, bool]]) -> None:
    serve = FlowServeSettings(python=desk.folder / "theirs")
    made = prepare(Step.SERVE, Settings(cache=desk.folder / "cache", serve=serve), desk.said.append)
    assert (name(made), made.own) == ("push", None)
    assert asked == [(Step.PUSH, False)]


def quantizing_python(desk: Desk, **versions: str) -> Path:
    """An interpreter that somebody has made, with these distributions."""
    lock = desk.folder / "their.lock"
    lock.write_text("".join(pin(wheel(desk.index, package, version)) for package, version in versions.items()))
    return ensure("theirs", lock, desk.folder / "cache", on_event=desk.said.append).python


def test_a_python_of_the_users_own_with_the_locked_arithmetic_quantizes(desk: Desk) -> None:
    wanted = {one: locked_version(Step.QUANTIZE, one) for one in ("compressed-tensors", "llmcompressor")}
    python = quantizing_python(desk, **{one.replace("-", "_"): version for one, version in wanted.items()})
    settings = Settings(cache=desk.folder / "cache", quantize=QuantizeSettings(python=python))
    made = prepare(Step.QUANTIZE, settings, desk.said.append)
    assert made.python == python
    assert [one.name for one in made.modules.iterdir()] == ["containers"]


def test_other_versions_are_refused_with_those_that_are_needed(desk: Desk) -> None:
    """What they write would be named by the lock's."""
    wanted = locked_version(Step.QUANTIZE, "compressed-tensors")
    python = quantizing_python(desk, compressed_tensors="0.1")
    settings = Settings(cache=desk.folder / "cache", quantize=QuantizeSettings(python=python))
    with pytest.raises(BadInput, match=r"has compressed-tensors 0\.1\n") as caught:
        prepare(Step.QUANTIZE, settings, desk.said.append)
    assert f"install compressed-tensors=={wanted} there" in caught.value.remedy
    assert "CARWRIGHT_QUANTIZE__PYTHON" in caught.value.remedy


@pytest.mark.parametrize(
    ("python", "said"), [(sys.executable, "has no compressed-tensors"), ("/no/such/python", "/no/such/python")]
)
def test_a_python_without_them_or_none_at_all_is_refused(tmp_path: Path, python: str, said: str) -> None:
    settings = Settings(cache=tmp_path, quantize=QuantizeSettings(python=python))
    with pytest.raises(BadInput, match=said):
        prepare(Step.QUANTIZE, settings, lambda _: None)
