"""The step's own decisions: what becomes of a measurement when a part of the suite meets a broken model."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from containers import suites
from containers.contract import Step, StepRequest
from containers.evaluate import suite, work
from containers.evaluate.client import NotFinite
from containers.evaluate.judge import judge
from containers.evaluate.measurement import Measured, Requests
from containers.events import Reporter
from containers.settings import StepSettings
from containers.step import Context
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_small_tasks_that_meet_nan_refuse_instead_of_ending_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose numbers are NaN gets a verdict; the tasks, which ask for them too, used to end the step before it."""

    def tasks(*_: object) -> Any:
        if len(found) == 1:  # the baseline is measured by now
            raise NotFinite("the model's numbers are not finite")
        return SimpleNamespace(scored=(), requests=Requests(sent=0, retried=0, failed=0))

    found: list[Measured] = []
    monkeypatch.setattr(work, "_harness", tasks)
    files = suites.read("smoke")
    for name, behaviour in (("baseline", Behaviour()), ("candidate", Behaviour(not_finite="error"))):
        with openai_server(behaviour) as url:
            request = StepRequest(
                step=Step.EVALUATE,
                run="test",
                parameters=files.parameters(action="measure", subject=name, engine="toy").dump(),
                options=files.options(endpoint=url, served_model_name="toy").dump(),
            )
            context = Context(StepSettings(), Reporter(StringIO(), structured=True), tmp_path, tmp_path / "result")
            made = work._measure(request, files, cast("Any", None), context)
        (tmp_path / name).mkdir()
        for path, content in made.items():
            (tmp_path / name / path).write_bytes(content)
        found.append(Measured.read(tmp_path / name))
    assert not found[1].about.tasks
    verdict = judge(suite.parse(files), found[1], found[0]).verdict
    assert verdict.decision == "refuse"
    said = " ".join(verdict.reasons)
    assert "no finite log-probability" in said
    assert "The check 'small tasks' failed: the model's numbers are not finite" in said
