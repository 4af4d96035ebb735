"""What becomes of a measurement when a part of the suite meets a broken model."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, cast

from containers import suites
from containers.evaluate.client import NotFinite
from containers.evaluate.harness.run import Ran
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.measurement import RequestCounts
from containers.evaluate.suite import Sizes
from containers.events import Reporter
from containers.step import Context
from infra.settings import Settings
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

    from containers.store import Store


def healthy(*_: object) -> Ran:
    return Ran(scored=(), requests=RequestCounts(sent=0, retried=0, failed=0), cut={}, commands=())


def broken(*_: object) -> Ran:
    raise NotFinite("the model's numbers are not finite")


def test_small_tasks_that_meet_nan_refuse_instead_of_ending_the_step(tmp_path: Path) -> None:
    """A model whose numbers are NaN gets a verdict, although the small tasks, which ask for them too, cannot be scored."""
    files = suites.read("smoke")
    for name, behaviour, run_tasks in (
        ("baseline", Behaviour(), healthy),
        ("candidate", Behaviour(not_finite="error"), broken),
    ):
        suite = FidelitySuite(FidelitySuite.read(files).declared, files, run_tasks)
        context = Context(Settings(), Reporter(StringIO(), structured=True), tmp_path, tmp_path / "result")
        with openai_server(behaviour) as url:
            made = suite.measure(
                files.parameters(action="measure", subject=name, server="toy"),
                files.options(endpoint=url, served_model_name="toy"),
                cast("Store", None),  # the small tasks alone would read it
                context,
            )
        (tmp_path / name).mkdir()
        for path, content in made.items():
            (tmp_path / name / path).write_bytes(content)
    verdict = FidelitySuite.read(files).judge(tmp_path / "candidate", tmp_path / "baseline", Sizes()).verdict
    assert verdict.decision == "refuse"
    said = " ".join(verdict.reasons)
    assert "no finite log-probability" in said
    assert "The check 'small tasks' failed: the model's numbers are not finite" in said
