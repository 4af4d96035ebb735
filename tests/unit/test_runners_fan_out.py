"""One quantization shared by child runs, which the test plays: dealt out, dealt out again, given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from containers.contract import Step, StepRequest, StepResult
from containers.errors import StepFailed, Temporary
from containers.parameters import QuantizeOptions, QuantizeParameters
from flows.runners.remote import fan_out
from infra.settings import PlacementSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.events import Event

PATHS = [f"model-{at}.safetensors" for at in range(8)]


@dataclass
class Store:
    """Knows which groups are there; a group's fingerprint is its path."""

    done: set[str] = field(default_factory=set)

    def find(self, kind: object, fingerprint: str) -> object | None:
        del kind
        return fingerprint if fingerprint in self.done else None


@dataclass
class Child:
    """A child run that does one group each time it is looked at; `fate` may end it before."""

    store: Store
    groups: list[str]
    fate: Callable[[Child], None]
    waiting: bool = False
    seconds: float = 1.0
    ended: bool = False
    heard: list[str] = field(default_factory=list)

    def poll(self) -> StepResult | None:
        self.fate(self)
        if not self.groups:
            return StepResult(step=Step.QUANTIZE)
        self.store.done.add(self.groups.pop(0))
        return None

    def send(self, command: str) -> None:
        self.heard.append(command)

    def end(self) -> None:
        if self.groups:  # as the real one does with a child run that has not ended
            self.send("end")
        self.ended = True


class Played:
    """Stands for `flows.orchestrator.child_runs.Children`, and for the launcher of this machine that plans and assembles."""

    def __init__(self, *fates: Callable[[Child], None]) -> None:
        self.store = Store()
        self.fates = list(fates)
        self.started: list[Child] = []
        self.dealt: list[tuple[str, ...]] = []
        self.asked: list[str] = []

    def __call__(self, store: object, settings: object) -> Played:
        del store, settings
        return self

    def start(self, deployment: str, request: StepRequest, label: str, listen: object) -> Child:
        del label, listen
        assert deployment == "run-step/gpu"
        groups = QuantizeOptions.read(request.options).groups
        self.dealt.append(groups)
        fate = self.fates.pop(0) if self.fates else lambda child: None
        self.started.append(Child(self.store, list(groups), fate))
        return self.started[-1]

    def run(self, request: StepRequest, on_event: Callable[[Event], None]) -> StepResult:
        del on_event
        action = QuantizeParameters.read(request.parameters).action
        self.asked.append(action)
        if action == "plan":
            groups = [
                {"path": path, "fingerprint": path, "size_before": 100, "stored": path in self.store.done}
                for path in PATHS
            ]
            return StepResult(step=Step.QUANTIZE, values={"plan": {"groups": groups}})
        assert self.store.done == set(PATHS), "assembled before every group was there"
        return StepResult(step=Step.QUANTIZE, values={"assembled": True})


def share(played: Played, monkeypatch: pytest.MonkeyPatch) -> tuple[StepResult, list[str]]:
    monkeypatch.setattr(fan_out, "Children", played)
    monkeypatch.setattr(fan_out, "POLL", 0.0)
    said: list[str] = []
    settings = Settings(placement=PlacementSettings(quantize="run-step/gpu", runs=2))
    request = StepRequest(step=Step.QUANTIZE, run="r", parameters=QuantizeParameters().dump())
    job: Any = fan_out.FanOut(request, played, played.store, settings, lambda event: said.append(event.message))
    return job.run(), said


def test_every_child_run_gets_a_list_and_the_parent_assembles(monkeypatch):
    """Never one child run for each group."""
    played = Played()
    result, _ = share(played, monkeypatch)
    assert result.values == {"assembled": True}
    assert played.asked == ["plan", "quantize"]
    assert [len(groups) for groups in played.dealt] == [4, 4]
    assert all(child.ended for child in played.started)


def test_what_is_stored_is_not_dealt_out(monkeypatch):
    """A rerun starts child runs for the rest, and none when there is no rest."""
    played = Played()
    played.store.done = set(PATHS[:7])
    share(played, monkeypatch)
    assert played.dealt == [(PATHS[7],)]
    again = Played()
    again.store.done = set(PATHS)
    share(again, monkeypatch)
    assert again.dealt == []


def test_what_a_lost_child_run_has_left_is_dealt_out_again(monkeypatch):
    """Only that."""

    def lost(child: Child) -> None:
        if len(child.groups) == 2:
            raise StepFailed("quantize", 75, "sent no heartbeat")

    played = Played(lost)
    result, said = share(played, monkeypatch)
    assert result.values == {"assembled": True}
    assert sum(len(groups) for groups in played.dealt) == len(PATHS) + 2
    assert "part 1: sent no heartbeat; its groups are dealt out again" in said


def test_no_child_run_is_started_behind_one_that_waits(monkeypatch):
    """The pool is full: what a dead one has left goes to the one that waits for its place, when it is done."""

    def lost(child: Child) -> None:
        raise StepFailed("quantize", 75, "gone")

    turns = []

    def waiting(child: Child) -> None:
        turns.append(len(played.started))
        child.waiting = len(turns) < 5

    played = Played(lost, waiting)
    share(played, monkeypatch)
    assert turns[:5] == [2] * 5


def test_bad_input_ends_all_of_them(monkeypatch):
    """At once: another machine would say the same."""

    def refuses(child: Child) -> None:
        raise StepFailed("quantize", 2, "the tensor is bad")

    played = Played(refuses)
    with pytest.raises(StepFailed, match="the tensor is bad") as caught:
        share(played, monkeypatch)
    assert caught.value.exit_code == 2
    assert all(child.ended for child in played.started)
    assert played.started[1].heard == ["end"]


def test_child_runs_that_keep_dying_are_given_up(monkeypatch):
    """A group that three of them had in hand is named."""

    def lost(child: Child) -> None:
        raise StepFailed("quantize", 75, "gone")

    played = Played(*[lost] * 10)
    with pytest.raises(Temporary, match="3 workers ended"):
        share(played, monkeypatch)
