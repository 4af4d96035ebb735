"""The services of a soak, as an operator runs them: each a process of its own, on loopback."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from containers.process import Child, inherited, run
from containers.store import Store
from flows.local import embedded
from flows.runtime import location
from infra.hub import Repositories
from infra.settings import Settings
from tests.soak import models, sampling
from tests.support.api_client import logged_in
from tests.support.local_registry import LocalRegistry
from tests.support.processes import descendants
from tests.support.waiting import until

if TYPE_CHECKING:
    import httpx

ROOT = Path(__file__).parents[2]
POOL = "soak"
PATIENCE = 300.0  # seconds for a service, or what it is asked
# The role of a process by a part of its command line.
ROLES = {
    "prefect server": "flows.orchestrator.prefect_server",
    "worker": "flows.orchestrator.prefect_worker",
    "watcher": "flows.cli.main watch",
    "S3 server": " serve s3 ",
    "registry": "docker-registry serve",
    "hub": "infra.hub",
}


@dataclass
class World:
    """`lanes` models, and everything that ships them when they change; `interval` is the watcher's, in seconds."""

    folder: Path
    lanes: int
    interval: float
    scheduled: bool = False
    names: list[str] = field(init=False)
    repositories: Repositories = field(init=False)
    settings: Settings = field(init=False)
    store: Store = field(init=False)
    api: httpx.Client = field(init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _environment: dict[str, str] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self.names = [f"m{number}" for number in range(self.lanes)]
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True)
        os.environ["TMPDIR"] = str(temporary)  # of every process of the soak: what is left there is counted
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        given = Settings(home=self.folder / "home")
        server = stack.enter_context(embedded.prefect_server(given))
        self.settings = stack.enter_context(embedded.store(given))
        registry = stack.enter_context(LocalRegistry(self.folder / "registry"))
        self.repositories = Repositories(self.folder / "hub")
        told: list[str] = []
        hub = [sys.executable, "-m", "infra.hub", "--root", str(self.folder / "hub")]
        log = self.folder / "home" / "logs"
        stack.enter_context(Child(hub, inherited(), cwd=ROOT, log_file=log / "hub.log", on_line=told.append))
        until(lambda: bool(told), "the hub starts", within=PATIENCE)
        suite = models.write_suite(self.folder / "counting")
        listed = models.write_list(self.folder / "models.yaml", self.names, registry, suite)
        self.store = Store.open(location(self.settings), self.settings.store)
        server.wait()
        keys = self.settings.store
        assert keys.access_key_id is not None
        assert keys.secret_access_key is not None
        self._environment = {
            **inherited(),
            **{name: value for name, value in os.environ.items() if name.startswith("CARWRIGHT_")},
            **embedded.prefect_environment(given.home.resolve()),
            **server.client,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "CARWRIGHT_HOME": str(given.home.resolve()),
            "CARWRIGHT_WATCH__MODELS": str(listed),
            "CARWRIGHT_WATCH__INTERVAL": str(self.interval),
            "CARWRIGHT_SERVE__KEEP_GB": "0.005",  # of 27 models: the disk is as full as it gets after 14 ships
            "CARWRIGHT_HUB_ENDPOINT": told[0],
            "CARWRIGHT_STORE__ENDPOINT": str(keys.endpoint),
            "CARWRIGHT_STORE__BUCKET": keys.bucket,
            "CARWRIGHT_STORE__ACCESS_KEY_ID": keys.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": keys.secret_access_key.get_secret_value(),
        }
        self.api = stack.enter_context(logged_in(server.api, server.login, timeout=PATIENCE))
        self._deploy()
        python = [sys.executable, "-m"]
        worker = [*python, "flows.orchestrator.prefect_worker", "--pool", POOL, "--type", "process"]
        worker += ["--limit", str(self.lanes + 1)]  # one more: a sweep, or a look of the scheduled watcher
        stack.enter_context(Child(worker, self._environment, log_file=log / "worker.log"))
        until(lambda: self.post("work_pools/soak/workers/filter"), "the worker comes up", within=PATIENCE)
        if not self.scheduled:
            watcher = [*python, "flows.cli.main", "watch"]
            stack.enter_context(Child(watcher, self._environment, cwd=ROOT, log_file=log / "watcher.log"))

    def _deploy(self) -> None:
        """The deployments of infra/prefect.yaml for a machine without containers, in a pool for processes."""
        block = "from flows.orchestrator.results import result_storage; result_storage()"
        run([sys.executable, "-c", block], env=self._environment, cwd=ROOT, timeout=PATIENCE)
        declared = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
        wanted = {"flows.quantize_and_ship": "local", "flows.watch_releases": "hourly", "flows.sweep_store": "daily"}
        chosen = []
        for one in declared:
            if wanted.get(one["entrypoint"].rpartition(".")[0]) != one["name"]:
                continue
            one["work_pool"] = {"name": POOL}
            if one["name"] == "hourly":
                one["schedules"] = [{"interval": self.interval, "active": self.scheduled}]
            elif one["name"] == "daily":
                one["schedules"] = []  # a day passes with every round: see `grow_older`
                one["parameters"] = {"older_days": 1}
            chosen.append(one)
        self.api.post("/work_pools/", json={"name": POOL, "type": "process"}).raise_for_status()
        file = self.folder / "prefect.yaml"
        pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
        file.write_text(yaml.safe_dump({"pull": pull, "deployments": chosen}))
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        run(argv, env=self._environment, cwd=ROOT, timeout=PATIENCE)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.api.post(f"/{path}", json=body or {}).raise_for_status().json()

    def change(self, number: int, seed: int) -> str:
        """New weights for a model; its commit."""
        return models.publish(self.repositories, self.names[number], self.folder / "model", seed)

    def sweep(self) -> dict[str, Any]:
        """Run the deployment that sweeps the store; its run."""
        deployment = self.api.get("/deployments/name/sweep-store/daily").raise_for_status().json()["id"]
        made = self.post(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]

        def ended() -> dict[str, Any]:
            one: dict[str, Any] = self.api.get(f"/flow_runs/{made}").raise_for_status().json()
            return one if one["state_type"] in ENDED else {}

        return until(ended, "the sweep ends", within=PATIENCE)

    def grow_older(self, seconds: float = 90_000) -> None:
        """Let that much time pass for the store: a sweep takes nothing that is younger than a day. Nothing may be running."""
        for path in (self.folder / "home" / "store").rglob("*"):
            status = path.lstat()
            if path.is_file():
                os.utime(path, (status.st_atime, status.st_mtime - seconds))

    def services(self) -> dict[str, int]:
        """The process of each role."""
        found: dict[str, int] = {}
        for pid in descendants(os.getpid()):
            line = sampling.command_line(pid)
            for role, mark in ROLES.items():
                if mark in line and "supervisor.py" not in line:
                    found.setdefault(role, pid)
        return found

    def strays(self) -> dict[int, str]:
        """Processes of the soak that are no services: at work, or left behind."""
        known = set(self.services().values())
        return {
            pid: line
            for pid, line in sampling.marked(str(self.folder)).items()
            if pid not in known and "supervisor.py" not in line
        }


ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
