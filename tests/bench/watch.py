"""Time and memory of a look at many models, and the time from an event to a run: `python -m tests.bench.watch [--models 200]`.

As it is in use: `carwright watch --once` in a process of its own, with an object store, a registry, a hub and a Prefect
server on loopback. All models were shipped before; the look that is measured finds nothing changed, and asks the hub with
ETags that an earlier look kept. Then three branches move, one after the other: each event's own time is compared with the
start of the run that a worker (of type process, asking every second) gives it, and the one in the middle counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from containers.digest import Digest
from containers.oci.access import open_repository
from containers.oci.reference import Reference
from containers.oci.repository import Blob
from containers.oci.types import MANIFEST, Descriptor, ImageConfig, ImageManifest, RootFs
from containers.process import Child, inherited, run
from containers.store import Store
from flows.local import embedded
from flows.runtime import location
from flows.watching import records
from flows.watching.changes import built_in_base, tools_now
from flows.watching.models import WatchedModel, load
from flows.watching.records import ShipRecord
from infra.hub import Hub, Repositories
from infra.settings import Settings
from tests.bench.store import below, resident
from tests.support.api_client import logged_in
from tests.support.local_registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

ROOT: Final = Path(__file__).parents[2]
MOST_SECONDS: Final = 20.0
MOST_MB: Final = 300
MOST_START: Final = 5.0  # seconds from the event to the running flow
_TAG: Final = "shipped"
_MOVED: Final = 3  # branches that move, one after the other
_PATIENCE: Final = 120.0  # seconds


@contextmanager
def world(folder: Path, models: int) -> Iterator[tuple[dict[str, str], Hub, httpx.Client]]:
    """Services with so many models, all of them shipped; yields the environment of commands, the hub and a client of Prefect's API."""
    settings = Settings(home=folder / "home")
    with ExitStack() as stack:
        server = stack.enter_context(embedded.prefect_server(settings))
        settings = stack.enter_context(embedded.store(settings))
        registry = stack.enter_context(LocalRegistry(folder / "registry"))
        hub = stack.enter_context(Hub(Repositories(folder / "hub")))
        commits = [hub.repositories.publish(f"bench/m{n}", _model(folder / "model", n)) for n in range(models)]
        lines = [{"name": f"m{n}", "model": f"hf://bench/m{n}", "targets": [f"{registry}/m{n}"]} for n in range(models)]
        (folder / "models.yaml").write_text(yaml.safe_dump({"models": lines}))
        store = Store.open(location(settings), settings.store)
        for line, commit in zip(load(folder / "models.yaml"), commits, strict=True):
            _shipped(line, commit, settings, store)
        secrets = settings.store
        assert secrets.access_key_id is not None
        assert secrets.secret_access_key is not None
        server.wait()
        yield (
            inherited()
            | embedded.prefect_environment(settings.home.resolve())
            | {
                **server.client,
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "CARWRIGHT_HOME": str(settings.home.resolve()),
                "CARWRIGHT_LAUNCHER": "docker",  # with no engine: the run that starts ends at its first step
                "CARWRIGHT_DOCKER__HOST": f"unix://{folder}/no-engine",
                "CARWRIGHT_WATCH__MODELS": str(folder / "models.yaml"),
                "CARWRIGHT_HUB_ENDPOINT": hub.endpoint,
                "CARWRIGHT_STORE__ENDPOINT": str(secrets.endpoint),
                "CARWRIGHT_STORE__BUCKET": secrets.bucket,
                "CARWRIGHT_STORE__ACCESS_KEY_ID": secrets.access_key_id.get_secret_value(),
                "CARWRIGHT_STORE__SECRET_ACCESS_KEY": secrets.secret_access_key.get_secret_value(),
            },
            hub,
            logged_in(server.api, server.login),
        )


def look(environment: dict[str, str], hub: Hub) -> dict[str, Any]:
    """One `carwright watch --once`: seconds, the most memory of its process, and what the hub was asked."""
    before = len(hub.served)
    started = time.perf_counter()
    with Child([sys.executable, "-m", "flows.cli.main", "watch", "--once"], environment) as child:
        most = 0
        while child.poll() is None:
            most = max(most, sum(map(resident, below(child.pid))))  # the child itself is a small supervisor
            time.sleep(0.02)
        took = time.perf_counter() - started
        said = child.tail.strip().splitlines()
    asked = [one for one in hub.served[before:] if one.path.startswith("/api/models/")]
    return {
        "seconds": round(took, 2),
        "mb": round(most / 1e6),
        "requests": len(asked),
        "unchanged": sum(one.status == 304 for one in asked),
        "said": said[-1] if said else "",
    }


def event_to_run(environment: dict[str, str], hub: Hub, api: httpx.Client, folder: Path) -> list[dict[str, float]]:
    """Seconds from the event until its run was there, a worker had it, and it was running; for one branch after the other."""
    deploy(environment, api, folder)
    argv = [sys.executable, "-m", "flows.orchestrator.prefect_worker", "--pool", "bench", "--type", "process"]
    found: list[dict[str, float]] = []
    with Child(argv, environment, log_file=folder / "worker.log"):
        _until(lambda: bool(_post(api, "work_pools/bench/workers/filter", {})), "no worker came up")
        for number in range(_MOVED):
            (folder / "model" / "model.safetensors").write_text(f"moved {number}")
            hub.repositories.publish(f"bench/m{number}", folder / "model")
            run(
                [sys.executable, "-m", "flows.cli.main", "watch", "--once"],
                env=environment,
                cwd=ROOT,
                timeout=_PATIENCE,
            )
            _until(lambda: len(_began(api)) > len(found), "no run started")
            event = _post(api, "events/filter", {"filter": {"event": {"name": ["carwright.model.changed"]}}})["events"][
                0
            ]
            newest = max(_began(api), key=lambda states: states["RUNNING"])
            found.append(_since(event["occurred"], newest))
    return found


def _since(event: str, states: dict[str, str]) -> dict[str, float]:
    start = datetime.fromisoformat(event)
    return {
        name.lower(): round((datetime.fromisoformat(when) - start).total_seconds(), 2) for name, when in states.items()
    }


def _began(api: httpx.Client) -> list[dict[str, str]]:
    """The first time of each state, for the runs of the deployment that came to RUNNING.

    A run that crashes before has a start time, too.
    """
    found = []
    for one in _post(api, "flow_runs/filter", {"deployments": {"name": {"any_": ["local"]}}}):
        answer = api.get("/flow_run_states/", params={"flow_run_id": one["id"]}).raise_for_status()
        states: dict[str, str] = {}
        for state in sorted(answer.json(), key=lambda state: state["timestamp"]):
            states.setdefault(state["type"], state["timestamp"])
        if "RUNNING" in states:
            found.append({name: states[name] for name in ("SCHEDULED", "PENDING", "RUNNING")})
    return found


def deploy(environment: dict[str, str], api: httpx.Client, folder: Path) -> None:
    """The deployment quantize-and-ship/local of infra/prefect.yaml, with its trigger, in a pool for processes."""
    block = "from flows.orchestrator.results import result_storage; result_storage()"
    run([sys.executable, "-c", block], env=environment, cwd=ROOT, timeout=_PATIENCE)
    declared = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    (local,) = [one for one in declared["deployments"] if one["name"] == "local" and one.get("triggers")]
    api.post("/work_pools/", json={"name": "bench", "type": "process"}).raise_for_status()
    chosen = {key: local[key] for key in ("name", "entrypoint", "triggers")} | {"work_pool": {"name": "bench"}}
    file = folder / "prefect.yaml"
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    file.write_text(yaml.safe_dump({"pull": pull, "deployments": [chosen]}))
    argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    run(argv, env=environment, cwd=ROOT, timeout=_PATIENCE)


def _model(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (folder / name).write_text(f"{number}")
    return folder


def _shipped(line: WatchedModel, commit: str, settings: Settings, store: Store) -> None:
    """A record, and an image of no use under the tag that it names."""
    with open_repository(Reference.parse(line.targets[0]), settings, write=True) as repository:
        config = Blob.of(ImageConfig(architecture="amd64", os="linux", rootfs=RootFs(diff_ids=())).encode())
        digest = repository.put_blob(config, lambda _: None)
        kind = "application/vnd.oci.image.config.v1+json"
        manifest = ImageManifest(config=Descriptor(media_type=kind, digest=digest, size=config.size), layers=())
        pushed = repository.put(manifest.encode(), MANIFEST, _TAG)
    record = ShipRecord(
        model=line.model, scheme=line.recipe.scheme, to=line.targets[0], suite=line.suite, commit=commit,
        revision="main", reference=f"{line.targets[0]}@{pushed}", digest=Digest(pushed.hex), tags=(_TAG,),
        decision="pass", measures={}, base=line.base, base_digest=built_in_base(line.base), tools=tools_now(line.suite),
        shipped=datetime.now(UTC), run="bench",
    )  # fmt: skip
    records.write_shipped(store, record)


def _post(api: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return api.post(f"/{path}", json=body).raise_for_status().json()


def _until(ready: Any, otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    waiting = threading.Event()
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        waiting.wait(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watch", description="Measure the watcher.")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path(".benchmarks/watch.json"), help="where the numbers go")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="carwright-bench-") as name,
        world(Path(name), arguments.models) as (environment, hub, api),
    ):
        rows = [{"what": what, **look(environment, hub)} for what in ("first look", "nothing changed")]
        starts = event_to_run(environment, hub, api, Path(name))
    table = Table(title=f"a look at {arguments.models} models")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in {"what", "said"} else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    second = rows[1]
    print(f"nothing changed: {second['seconds']} s (at most {MOST_SECONDS:g}), {second['mb']} MB (at most {MOST_MB})")
    running = sorted(one["running"] for one in starts)[len(starts) // 2]
    print(f"from the event to the running flow: {running:.2f} s (at most {MOST_START:g}); each: {starts}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"models": arguments.models, "cores": os.cpu_count(), "rows": rows, "event_to_run": starts}
    arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
