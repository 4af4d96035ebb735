"""One vLLM process: started, waited for, and served until its lease runs out. A failed start is explained from its log."""

from __future__ import annotations

import re
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from containers.errors import BadInput, Interrupted, NotReady
from containers.heartbeat import LeaseWatch
from containers.parameters import ServerStart
from containers.ports import LOOPBACK, beside, listens_alone
from containers.process import Child
from containers.serve.diagnosis import explain, last
from containers.serve.front import passing_on
from containers.serve.vllm_command import EMULATION
from containers.serve_health import HEALTH_TIMEOUT, health_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.events import Reporter
    from containers.parameters import ServeOptions

_POLL: Final = 0.25  # seconds between two health checks
_WATCH: Final = 1.0  # seconds between two looks at the lease
_LINES: Final = 400  # of the log, in memory: a failure's first word can stand far above its last
# What vLLM says of itself on a GPU (vllm/v1/worker/gpu_model_runner.py and v1/core/kv_cache_utils.py of 0.32).
_WEIGHTS: Final = re.compile(r"Model loading took (?P<gib>[\d.]+) GiB")
_LOADING: Final = "Starting to load model"
# argparse's word for a format that an older vLLM does not know, and Python's and vLLM's for a package that is not there.
_NO_FORMAT: Final = re.compile(r"argument --load-format|(No module named|Please install) '?`?fastsafetensors")
_CACHE: Final = re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens")
_FIRST_ANSWER: Final = 120.0  # seconds for one token, the first one, which includes late initialization


@dataclass
class VllmServer:
    """`socket` is where it listens, `port` one that is claimed for it (`containers.ports`), on which it answers once ready.

    `log` holds vLLM's last lines; `emulates` is set when the plugin reports that it emulates FP8. `weights` (bytes on each
    GPU) and `cache_tokens` are what vLLM says of itself while it starts; 0 until then. `load_format` is the one in `argv`, if any;
    `failed_loading` is set when vLLM ended by itself while it read the weights, or would not read them in that format.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    socket: Path
    port: int
    served_model_name: str
    options: ServeOptions
    report: Reporter
    load_format: str = ""
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES), init=False)
    emulates: bool = field(default=False, init=False)
    weights: int = field(default=0, init=False)
    cache_tokens: int = field(default=0, init=False)
    failed_loading: bool = field(default=False, init=False)
    _loading: bool = field(default=False, init=False)
    _lease: LeaseWatch = field(init=False)

    def __post_init__(self) -> None:
        path = Path(self.options.lease) if self.options.lease else None
        self._lease = LeaseWatch(path, self.options.lease_seconds)

    @property
    def url(self) -> str:
        """The base of the OpenAI API, on this machine."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    def child(self) -> Child:
        """The process, to be entered with `with`: it and what it started end with the block."""
        log_file = Path(self.options.log_file) if self.options.log_file else None
        return Child(self.argv, self.env, log_file=log_file, on_line=self._on_line)

    def wait_ready(self, child: Child) -> None:
        """Return once the health check succeeds, asked at its socket: nobody else can answer there.

        Raises what `explain` makes of the log when vLLM ends first or the deadline passes, Interrupted when the lease
        runs out.
        """
        started = time.monotonic()
        address = health_url(self.url)
        with (
            httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=HEALTH_TIMEOUT) as client,
            self.report.progress("vLLM is loading", unit="s") as progress,
        ):
            while True:
                elapsed = time.monotonic() - started
                if elapsed - progress.done >= 1:
                    progress.advance(elapsed - progress.done)
                self._check_alive(child)
                try:
                    if client.get(address).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass  # not listening yet, or too busy loading to answer
                if elapsed > self.options.ready_timeout:
                    raise self._ready_timeout()
                if self._lease.over:
                    raise Interrupted("vLLM was stopped while loading: nobody renewed its lease")
                time.sleep(_POLL)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer at the port until the block ends. Raises BadInput when another program does that, too."""
        with beside(self.port, self.options.host) as listening, passing_on(listening, self.socket):
            if not listens_alone(listening):  # beside one of the same user: the kernel shares connections out
                raise BadInput(
                    f"another program of this user listens on port {self.port}, too",
                    remedy=f"`ss -ltnp 'sport = :{self.port}'` names it; CARWRIGHT_SERVE__PORT=0 takes a free port",
                )
            yield

    def first_answer(self) -> None:
        """Ask for one token: a server can be healthy and unable to answer. Raises NotReady."""
        body = {"model": self.served_model_name, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        try:
            answer = httpx.post(f"{self.url}/completions", json=body, timeout=_FIRST_ANSWER, trust_env=False)
        except httpx.TransportError as error:
            raise explain(
                self.log, f"vLLM passed its health check but did not complete its first answer: {error}"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise explain(self.log, f"vLLM refused its first request with HTTP {answer.status_code}: {answer.text}")

    def start_facts(self, seconds: float) -> ServerStart | None:
        """What a server on a GPU said of itself; None for one that said nothing, as on a CPU."""
        if not self.weights and not self.cache_tokens:
            return None
        return ServerStart(
            weights_per_gpu=self.weights,
            cache_tokens=self.cache_tokens,
            seconds=round(seconds, 1),
            load_format=self.load_format,
        )

    def run_until_stopped(self, child: Child) -> str:
        """Serve until the lease runs out or a signal arrives (SIGINT, SIGTERM); returns the reason.

        Raises what `explain` makes of the log when vLLM ends by itself.
        """
        try:
            while not self._lease.over:
                self._check_alive(child)
                time.sleep(_WATCH)
        except KeyboardInterrupt:
            return "stopped on request"
        return f"stopped: the lease was not renewed for {self.options.lease_seconds:g} s"

    def _check_alive(self, child: Child) -> None:
        code = child.poll()
        if code is None:
            return
        child.stop()  # reads what is left of its output
        self.failed_loading = (self._loading and not self.weights) or any(map(_NO_FORMAT.search, self.log))
        raise explain(self.log, f"vLLM ended with code {code}")

    def _ready_timeout(self) -> NotReady:
        return NotReady(
            f"vLLM was not ready within {self.options.ready_timeout:g} s; its last lines:\n{last(self.log)}",
            remedy="raise CARWRIGHT_SERVE__READY_TIMEOUT (seconds) for a large model or a slow disk",
        )

    def _on_line(self, line: str) -> None:
        self.log.append(line)
        self._loading = self._loading or _LOADING in line
        if found := _WEIGHTS.search(line):
            self.weights = max(self.weights, int(float(found["gib"]) * (1 << 30)))
        elif found := _CACHE.search(line):
            tokens = int(found["tokens"].replace(",", ""))
            self.cache_tokens = min(self.cache_tokens, tokens) if self.cache_tokens else tokens
        if EMULATION in line and not self.emulates:
            self.emulates = True
            self.report.log("no GPU: FP8 is emulated in bfloat16, so speed on this machine says nothing about a GPU")
