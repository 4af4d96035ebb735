"""What a lane has: a tiny model in a hub, a suite, the services behind proxies, and one ship that nobody disturbed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import yaml
from pydantic import SecretStr

from containers import suites
from containers.contract import Kind, StoreLocation
from containers.process import inherited, run
from containers.settings import StoreSettings
from containers.store import Store
from flows.local import embedded
from infra.settings import Settings
from tests.campaign import leavings
from tests.campaign.cases import ENGINE
from tests.campaign.engine import Engine
from tests.support import api_client, real_services, s3_servers, tiny_llama, vllm_server
from tests.support.fault_proxy import FaultProxy
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.campaign.cases import Case
    from tests.support.real_services import Service

ROOT: Final = Path(__file__).resolve().parents[2]
REPOSITORY: Final = "org/tiny"
POOL: Final = "campaign"
_SAME: Final = (Kind.CHECKPOINT, Kind.GROUP)
LONGEST: Final = 400.0  # seconds: a command that has not ended then hangs


def write_model(folder: Path) -> Path:
    return tiny_llama.write_tiny_llama(folder, max_position_embeddings=2048)


def write_suite(folder: Path) -> Path:
    """The smoke suite with one text, few prompts, no tasks, and limits that noise passes: the model is random."""
    declared = yaml.safe_load(suites.read("smoke").files["suite.yaml"])
    declared.pop("tasks")
    declared |= {
        "name": folder.name,
        "serving": {"max_model_len": 512, "max_logprobs": 20},
        "sanity": {
            "max_tokens": 8,
            "chat": ["w3 w4 w5"],
            "completion": ["w5 w6"],
            "repeats": 2,
            "long_prompt_tokens": 256,
            "concurrent": 2,
        },
    }
    declared["fidelity"] |= {"text": ["text/*.txt"], "repeat": "text/one.txt"}
    declared["gate"]["limits"] = {"kl_mean": {"at_most": 5.0}}
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "one.txt").write_text(" ".join(f"w{3 + number * 7 % 61}" for number in range(200)))
    (folder / "suite.yaml").write_text(yaml.safe_dump(declared))
    return folder


@contextmanager
def engines(folder: Path) -> Iterator[tuple[int, int]]:
    """Two vLLMs, of the model and of what the quantize step makes of it; yields their ports."""
    model, quantized = folder / "model", folder / "quantized"
    if not quantized.exists():
        run(
            [*COMMAND, "quantize", f"file://{model}", "--output", str(quantized)],
            env={
                **inherited(),
                "PYTHONPATH": str(ROOT),
                "CARWRIGHT_HOME": str(folder / "quantizing"),
                "CARWRIGHT_DEVICE": "cpu",
            },
            cwd=folder,
            timeout=LONGEST,
        )
    with ExitStack() as stack, ThreadPoolExecutor(2) as both:

        def start(name: str) -> int:
            log = folder / f"engine-{name}" / "log"
            log.parent.mkdir(exist_ok=True)
            url = stack.enter_context(vllm_server.served(Settings(device="cpu"), folder / name, log))
            return int(url.removesuffix("/v1").rpartition(":")[2])

        ports = list(both.map(start, ("model", "quantized")))
        yield ports[0], ports[1]


@contextmanager
def toys() -> Iterator[tuple[int, int]]:
    """Two toys in place of vLLMs, for who works on the campaign: what is said of them says nothing of vLLM."""
    with (
        openai_server(Behaviour(version="0.32.0")) as before,
        openai_server(Behaviour(version="0.32.0", shift=0.05)) as after,
    ):
        ports = [int(url.removesuffix("/v1").rpartition(":")[2]) for url in (before, after)]
        yield ports[0], ports[1]


COMMAND: Final = (sys.executable, "-m", "flows.cli.main")


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` below 0 is a signal, None that it had to be ended."""

    code: int | None
    seconds: float
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.stdout))
        except ValueError:
            return {}


@dataclass
class Usual:
    """A ship that nobody disturbed: what it came to, how long its steps took, how often each service was called."""

    digest: str = ""
    tags: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first: float = 0.0
    span: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what it left; told with the first case


class World:
    """One lane; `shared` has the model, the suite and what `engines` wrote, `ports` are of its vLLMs."""

    def __init__(self, folder: Path, shared: Path, ports: tuple[int, int] | None, store: str) -> None:
        self.folder, self.shared, self.store_kind = folder, shared, store
        self._stack = ExitStack()
        self.store = real_services.Service("store", folder / "s3", real_services.STORES[store])
        self.registry = real_services.Service("registry", folder / "registry", real_services.registry)
        self.prefect = real_services.Service("Prefect server", folder / "prefect-home", real_services.prefect)
        self.hub = real_services.HubBehindProxies(folder / "hub")
        self.ports = ports
        self.endpoints = [FaultProxy(port) for port in ports or ()]
        self.engine = Engine.behind(folder)
        self.usual: dict[str, Usual] = {}
        self._deployed = False

    def __enter__(self) -> Self:
        for one in (self.store, self.registry, self.hub, *self.endpoints):
            self._stack.enter_context(one)
        self._stack.enter_context(self.engine.proxy)
        self.hub.repositories.publish(REPOSITORY, self.shared / "model")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def services(self) -> dict[str, Service]:
        return {"store": self.store, "registry": self.registry, "Prefect server": self.prefect}

    @property
    def proxies(self) -> dict[str, FaultProxy]:
        found = {
            "store": self.store.proxy,
            "registry": self.registry.proxy,
            "hub": self.hub.api,
            "cdn": self.hub.cdn,
            "Prefect API": self.prefect.proxy,
            ENGINE: self.engine.proxy,
        }
        return found | dict(zip(("baseline", "candidate"), self.endpoints, strict=False))

    def open_pool(self) -> None:
        """A Prefect server with a work pool and the deployment of the chain; started once."""
        if self._deployed:
            return
        self._stack.enter_context(self.prefect)
        with api_client.logged_in(f"{self.prefect.proxy.url}/api", self.login, 60) as client:
            client.post("/work_pools/", json={"name": POOL, "type": "process"}).raise_for_status()
        chain = {"name": POOL, "entrypoint": "flows.quantize_and_ship.quantize_and_ship", "work_pool": {"name": POOL}}
        file = self.folder / "prefect.yaml"
        file.write_text(yaml.safe_dump({"deployments": [chain], "pull": []}))
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        environment = inherited() | embedded.prefect_environment(self.folder / "deploying") | self.prefect_client
        run(argv, env=environment, cwd=ROOT, timeout=LONGEST)
        # As `carwright pools` does, but for its own pools: the block for results, and the automation that ends silent runs.
        rest = "from flows.orchestrator.work_pools import prepare; prepare(None, print, ())"
        run([sys.executable, "-c", rest], env=environment | {"PYTHONPATH": str(ROOT)}, timeout=LONGEST)
        self._deployed = True

    @property
    def login(self) -> str:
        return (self.folder / "prefect-home" / "prefect" / "login").read_text().strip()

    @property
    def prefect_client(self) -> dict[str, str]:
        return {"PREFECT_API_URL": f"{self.prefect.proxy.url}/api", "PREFECT_API_AUTH_STRING": self.login}


class Bench:
    """The folder of one case: homes, a bucket and a repository of its own."""

    def __init__(self, world: World, name: str, case: Case) -> None:
        self.world, self.name, self.own_engines = world, name, case.own_engines
        self.in_containers, self.began = case.in_containers, datetime.now(UTC)
        self.folder = world.folder / "cases" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "tmp").mkdir(parents=True)
        self.home = self.new_home("home")
        self.repository = f"{name}/car"

    def new_home(self, name: str) -> Path:
        """A home with the database of a Prefect server that has run before: a new one takes many seconds to make."""
        home = self.folder / name
        home.mkdir(mode=0o700)
        template = self.world.folder / "template"
        if template.exists():
            shutil.copytree(template, home / "prefect")
        return home

    def homes(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name.startswith("home")]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        world = self.world
        return {
            **inherited(),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "TMPDIR": str(self.folder / "tmp"),
            "CARWRIGHT_HOME": str(home),
            "CARWRIGHT_DEVICE": "cpu",
            "CARWRIGHT_HUB_ENDPOINT": world.hub.api.url,
            "CARWRIGHT_STORE__ENDPOINT": world.store.proxy.url,
            "CARWRIGHT_STORE__BUCKET": self.name,
            "CARWRIGHT_STORE__ACCESS_KEY_ID": s3_servers.KEY,
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": s3_servers.SECRET,
            "CARWRIGHT_REGISTRY__ATTEMPTS": "4",
            "CARWRIGHT_EVALUATE__ATTEMPTS": "3",
            **(world.engine.environment(self.name) if self.in_containers else {}),
            **more,
        }

    def target(self, repository: str = "") -> str:
        return f"127.0.0.1:{self.world.registry.proxy.port}/{repository or self.repository}"

    def arguments(self, *more: str, repository: str = "") -> list[str]:
        chosen = [
            "ship",
            f"hf://{REPOSITORY}",
            "--to",
            self.target(repository),
            "--suite",
            str(self.world.shared / "tiny"),
        ]
        if not self.own_engines:
            for name, proxy in zip(("baseline", "candidate"), self.world.endpoints, strict=True):
                chosen += [f"--{name}-endpoint", f"{proxy.url}/v1"]
        return [*chosen, "--json", *more]

    def start(
        self, *arguments: str, home: Path | None = None, prefix: tuple[str, ...] = (), **more: str
    ) -> subprocess.Popen[str]:
        """A command of Carwright's, as a person starts it."""
        number = len(list(self.folder.glob("*.err")))
        if self.in_containers and not number:
            self.world.engine.follow(self.name)
        with (self.folder / f"{number}.out").open("w") as out, (self.folder / f"{number}.err").open("w") as err:
            process = subprocess.Popen(
                [*prefix, *COMMAND, *arguments],
                cwd=self.folder,
                env=self.environment(home or self.home, **more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )
        process.campaign = number  # type: ignore[attr-defined]
        return process

    def ended(self, process: subprocess.Popen[str], began: float, now: float) -> Ended:
        number = process.campaign  # type: ignore[attr-defined]
        out, err = (self.folder / f"{number}.{kind}" for kind in ("out", "err"))
        return Ended(
            process.returncode, round(now - began, 1), out.read_text(errors="replace"), err.read_text(errors="replace")
        )

    def tags(self, repository: str = "") -> dict[str, str]:
        """The tags in the registry and their digests; asked without the proxy."""
        base = f"http://127.0.0.1:{self.world.registry.proxy.upstream}/v2/{repository or self.repository}"
        listed = httpx.get(f"{base}/tags/list", timeout=30)
        names = (listed.json().get("tags") or []) if listed.status_code == 200 else []
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"}
        heads = {name: httpx.head(f"{base}/manifests/{name}", headers=accept, timeout=30) for name in names}
        return {name: head.headers.get("Docker-Content-Digest", str(head.status_code)) for name, head in heads.items()}

    def left_on_engine(self) -> list[str]:
        return self.world.engine.left() if self.in_containers else []

    def open_store(self) -> Store:
        settings = StoreSettings(
            endpoint=f"http://127.0.0.1:{self.world.store.proxy.upstream}",
            bucket=self.name,
            access_key_id=SecretStr(s3_servers.KEY),
            secret_access_key=SecretStr(s3_servers.SECRET),
        )
        return Store.open(StoreLocation(endpoint=settings.endpoint, bucket=self.name), settings)

    def left_in_store(self) -> list[str]:
        found = [f"result of a part {key}" for key in self.open_store().keys("results/shards")]
        if self.world.store_kind == "rclone":
            bucket = self.world.folder / "s3" / "data" / self.name
            found += leavings.half_written(bucket)
            found += [f"notice {path.relative_to(bucket)}" for path in bucket.glob("notices/**/*") if path.is_file()]
        return found

    def artifacts(self) -> list[str]:
        """Names of what is stored and the same after every ship of the model; a measurement is not."""
        store = self.open_store()
        return sorted(f"{kind}/{one.fingerprint}" for kind in _SAME for one in store.manifests(kind))

    def remove(self) -> None:
        if self.in_containers:
            self.world.engine.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.world.store_kind == "rclone":
            shutil.rmtree(self.world.folder / "s3" / "data" / self.name, ignore_errors=True)
