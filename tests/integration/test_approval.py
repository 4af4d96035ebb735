"""A release that waits for a person, under a real Prefect server: approved, refused, nobody there, killed while it waits."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from containers.contract import Kind
from containers.errors import BadInput
from containers.process import inherited
from containers.store import Store
from flows.local import embedded
from flows.release.summary import NotPromoted, Shipped
from flows.runtime import Runtime, location, use
from infra.settings import Settings
from tests.support.played_steps import PlayedLauncher, PlayedServices
from tests.support.prefect_api import client_of, prefect_api
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.events import Event

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """Settings with a store that is up, and the address of Prefect's API."""
    given = Settings(home=tmp_path_factory.mktemp("home"))
    with prefect_api(given) as api, embedded.store(given) as up:
        yield up, api


@pytest.fixture(scope="module")
def settings(world: tuple[Settings, str]) -> Settings:
    return world[0]


@dataclass
class Waiting:
    """A run in a thread of its own, and what it came to."""

    settings: Settings
    name: str
    decision: str = "pass"
    said: list[str] = field(default_factory=list)
    outcome: list[Shipped | Exception] = field(default_factory=list)
    launcher: PlayedLauncher | None = None

    def start(self, **parameters: Any) -> threading.Thread:
        own = self.settings.model_copy(update={"store": self.settings.store.model_copy(update={"prefix": self.name})})
        store = Store.open(location(own), own.store)
        self.launcher = PlayedLauncher(store, decision=self.decision)

        def listen(_: str, event: Event) -> None:
            self.said.append(event.text())

        runtime = Runtime(own, store, self.launcher, PlayedServices(), listen, "run")  # type: ignore[arg-type]

        def run() -> None:
            from flows.orchestrator.results import result_storage
            from flows.quantize_and_ship import quantize_and_ship

            with use(runtime):
                flow = quantize_and_ship.with_options(result_storage=result_storage())
                try:
                    self.outcome.append(flow(model="hf://a/b", to="oci:x", approval=True, **parameters))
                except Exception as error:  # noqa: BLE001 - what it came to is what is looked at
                    self.outcome.append(error)

        thread = threading.Thread(target=copy_context().run, args=(run,))
        thread.start()
        return thread

    @property
    def asked(self) -> list[str]:
        assert self.launcher is not None
        return self.launcher.asked

    def shipped(self) -> Shipped:
        (found,) = self.outcome
        assert isinstance(found, Shipped), found
        return found


def the_one_that_waits(but: str = "") -> str:
    """The run that waits; `but` is one that nobody runs any more."""
    from flows.orchestrator import approval

    def others() -> list[str]:
        return [run for run, _ in approval.waiting() if run != but]

    (run,) = until(others, "a run that waits", within=90)
    return run


def answered(waiting: Waiting, *, approve: bool, reason: str, but: str = "") -> None:
    from flows.orchestrator import approval

    thread = waiting.start()
    run = the_one_that_waits(but)
    assert "promote" not in waiting.asked
    approval.answer(run, approve=approve, reason=reason)
    thread.join(90)
    assert not thread.is_alive()


def test_an_approved_release_is_promoted_and_the_reason_recorded(settings: Settings) -> None:
    waiting = Waiting(settings, "approved")
    answered(waiting, approve=True, reason="read the report")
    shipped = waiting.shipped()
    assert waiting.asked[-1] == "promote"
    assert shipped.approval is not None
    assert (shipped.approval.approved, shipped.approval.reason) == (True, "read the report")
    assert ("approved", "read the report") in shipped.facts()
    assert any("waiting for a person to approve sha256:" in line and "the report is" in line for line in waiting.said)
    assert waiting.launcher is not None
    store = waiting.launcher.store
    (card,) = list(store.manifests(Kind.CARD))
    entry = next(one for one in card.files if one.path == "provenance.intoto.json")
    statement = json.loads(store.read_bytes(entry.sha256))
    assert statement["predicate"]["buildDefinition"]["internalParameters"]["approval"] == "read the report"


def test_a_refused_release_is_not_promoted(settings: Settings) -> None:
    waiting = Waiting(settings, "refused")
    answered(waiting, approve=False, reason="the answers are rude")
    (error,) = waiting.outcome
    assert isinstance(error, NotPromoted)
    assert error.exit_code == 3
    assert "was not approved: the answers are rude" in error.message
    assert error.shipped.tags == ()
    assert "promote" not in waiting.asked


_ALONE = """
import sys
from infra.settings import Settings
from tests.integration.test_approval import Waiting

waiting = Waiting(Settings(), "killed")
thread = waiting.start()
thread.join()
"""


def test_a_run_that_is_killed_while_it_waits_leaves_everything_to_the_next(world: tuple[Settings, str]) -> None:
    """The run in a process of its own, killed; the same command finds all that was made, and asks again."""
    settings, api = world
    store = settings.store
    assert store.access_key_id is not None
    assert store.secret_access_key is not None
    env = {
        **inherited(),
        **client_of(api),
        "CARWRIGHT_HOME": str(settings.home),
        "CARWRIGHT_STORE__ENDPOINT": str(store.endpoint),
        "CARWRIGHT_STORE__BUCKET": store.bucket,
        "CARWRIGHT_STORE__ACCESS_KEY_ID": store.access_key_id.get_secret_value(),
        "CARWRIGHT_STORE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with subprocess.Popen([sys.executable, "-c", _ALONE], env=env) as process:
        try:
            dead = the_one_that_waits()
        finally:
            process.kill()
    again = Waiting(settings, "killed")
    answered(again, approve=True, reason="read it twice", but=dead)
    assert again.asked == ["resolve", "push", "promote"], "nothing was done twice"
    assert again.shipped().tags
    from flows.orchestrator import approval

    approval.answer(dead, approve=True, reason="nobody runs it any more")  # and it waits no longer


def test_what_the_gate_stops_is_not_asked_about(settings: Settings) -> None:
    waiting = Waiting(settings, "stopped", decision="refuse")
    waiting.start().join(90)
    (error,) = waiting.outcome
    assert isinstance(error, NotPromoted)
    assert error.shipped.approval is None


def test_where_nobody_decides_nothing_is_promoted(settings: Settings) -> None:
    short = settings.model_copy(update={"approval_timeout": 2})
    waiting = Waiting(short, "nobody")
    waiting.start().join(90)
    (error,) = waiting.outcome
    assert isinstance(error, NotPromoted)
    assert error.exit_code == 4
    assert "nobody decided within 2 seconds" in error.message
    assert "promote" not in waiting.asked


def test_only_a_run_that_waits_takes_an_answer_and_only_with_a_reason(settings: Settings) -> None:
    from flows.orchestrator import approval

    with pytest.raises(BadInput, match="there is no run"):
        approval.answer("00000000-0000-4000-8000-000000000000", approve=True, reason="x")
    with pytest.raises(BadInput, match="no answer for 'mine'"):
        approval.answer("mine", approve=True, reason="x")
    waiting = Waiting(settings, "reasons")
    thread = waiting.start()
    run = the_one_that_waits()
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(BadInput, match="no answer for"):
            approval.answer(run, approve=True, reason=reason)
    approval.answer(run, approve=True, reason="fine")
    thread.join(90)
    assert waiting.shipped().tags
    with pytest.raises(BadInput, match="does not wait for approval: it is completed"):
        approval.answer(run, approve=True, reason="twice")
