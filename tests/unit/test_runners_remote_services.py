"""Services in child runs, which the test plays: what `carwright clean` finds of them, and how it ends them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from prefect.states import Cancelling, Completed, Running

from containers.contract import Step, StepRequest
from containers.fingerprints import fingerprint_inputs
from containers.parameters import Endpoint, ServeParameters
from containers.settings import StoreSettings
from flows.orchestrator import child_runs
from flows.runners.remote import services as remote_services
from flows.runners.remote.services import PlacedServices
from infra.settings import PlacementSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import State

REQUEST = StepRequest(step=Step.SERVE, run="r", parameters=ServeParameters(served_model_name="m").dump())
KEPT = f"results/services/{REQUEST.fingerprint(fingerprint_inputs(Step.SERVE))}.json"


@dataclass
class Run:
    """A flow run as the Prefect API tells it."""

    key: str
    id: UUID = field(default_factory=uuid4)
    work_pool_name: str = "carwright-gpu"
    state: State[Any] = field(default_factory=Running)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"key": self.key, "request": REQUEST.model_dump(mode="json"), "label": "serve m"}


@dataclass
class World:
    """The keys of a store and a Prefect server; with `hears` a child run ends when the store says so."""

    keys: dict[str, bytes] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    hears: bool = True
    asked: list[Any] = field(default_factory=list)

    def serve(self, word: str) -> Run:
        """A child run that serves, and the last word of its parent."""
        run = Run(f"child-{len(self.runs)}")
        endpoint = Endpoint(url=f"http://gpu-7:{8000 + len(self.runs)}/v1", served_model_name="m", server="vllm")
        self.runs.append(run)
        self.keys[f"results/children/{run.key}/parent.json"] = json.dumps({"beat": 3, "word": word}).encode()
        self.keys[f"results/children/{run.key}/endpoint.json"] = endpoint.model_dump_json().encode()
        return run

    def read_key(self, key: str) -> bytes:
        return self.keys[key]

    def write_key(self, key: str, content: bytes) -> None:
        self.keys[key] = content
        for run in self.runs:
            if self.hears and key == f"results/children/{run.key}/parent.json" and b'"end"' in content:
                run.state = Completed()

    def delete_key(self, key: str) -> None:
        self.keys.pop(key, None)

    def read_deployment_by_name(self, name: str) -> Run:
        assert name == "run-step/gpu"
        return Run("deployment")

    def read_flow_runs(self, **filters: Any) -> list[Run]:
        self.asked.append(filters)
        return self.runs

    def read_flow_run(self, run_id: UUID) -> Run:
        return next(run for run in self.runs if run.id == run_id)

    def set_flow_run_state(self, run_id: UUID, state: State[Any]) -> None:
        self.read_flow_run(run_id).state = state


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    @contextmanager
    def api() -> Iterator[World]:
        yield world

    monkeypatch.setattr(child_runs, "api", api)
    monkeypatch.setattr(child_runs, "POLL", 0.0)
    monkeypatch.setattr(remote_services, "check_server", lambda: "http://127.0.0.1:4200/api")
    monkeypatch.setattr(remote_services.Store, "open", lambda location, settings: world)
    return world


class Here:
    """The services of this machine."""

    def stop_all(self, *, kept: bool = False) -> list[str]:
        return [f"here, kept={kept}"]


def placed(serve: str = "run-step/gpu") -> PlacedServices:
    store = StoreSettings(endpoint="http://127.0.0.1:9")
    return PlacedServices(Settings(placement=PlacementSettings(serve=serve), store=store), Here())


def test_kept_services_are_stopped_wherever_they_serve(world: World) -> None:
    """Those of runs that go on are left to them."""
    kept, other = world.serve("keep"), world.serve("on")
    world.keys[KEPT] = b"{}"
    assert placed().stop_all(kept=True) == ["here, kept=True", "http://gpu-7:8000/v1"]
    assert (kept.state.is_completed(), other.state.is_running()) == (True, True)
    assert sorted(world.keys) == [f"results/children/{other.key}/{what}.json" for what in ("endpoint", "parent")]


def test_one_that_does_not_hear_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of an earlier version, or a run that hangs."""
    monkeypatch.setattr(child_runs, "_GRACE", 0.05)
    world.hears = False
    kept = world.serve("keep")
    assert placed().stop_all(kept=True) == ["here, kept=True", "http://gpu-7:8000/v1"]
    assert kept.state.type == Cancelling().type


def test_without_kept_nothing_elsewhere_is_touched(world: World) -> None:
    """Nor without a deployment that serves: no Prefect server is asked then."""
    kept = world.serve("keep")
    assert placed().stop_all() == ["here, kept=False"]
    assert placed(serve="").stop_all(kept=True) == ["here, kept=True"]
    assert kept.state.is_running()
    assert world.asked == []
