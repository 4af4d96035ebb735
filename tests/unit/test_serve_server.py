"""The lease, and what is said when a server ends early; the server is a small program that stands in for vLLM."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import httpx
import pytest

from containers.errors import BadInput, Interrupted, NotReady
from containers.events import Reporter
from containers.parameters import ServeOptions
from containers.ports import claimed
from containers.process import inherited
from containers.serve.server import VllmServer
from tests.support.waiting import until

_HEALTHY = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): self.answer(b"")
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/hangs"):
            self.rfile.read()  # until the client has gone
            print("the client has gone", flush=True)
        else:
            self.answer(asked * 2)
    def answer(self, body):
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def address_string(self): return "-"
    def log_message(self, *_): pass
class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
Server(sys.argv[1], Handler).serve_forever()
"""


_FOLDERS: list[Path] = []


@pytest.fixture(autouse=True)
def _folder() -> Iterator[None]:
    """For the socket of a test: what pytest gives has too long a name for one."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        _FOLDERS.append(Path(folder))
        yield


def _server(program: str, port: int, **options: object) -> VllmServer:
    path = _FOLDERS[-1] / "s"
    return VllmServer(
        argv=[sys.executable, "-c", program, str(path)],
        env=inherited(),
        socket=path,
        port=port,
        served_model_name="demo",
        options=ServeOptions.model_validate(options),
        report=Reporter(StringIO(), structured=True),
    )


def test_ready_is_when_the_health_check_succeeds() -> None:
    with claimed(0) as port:
        server = _server(_HEALTHY, port, ready_timeout=30)
        with server.child() as child:
            server.wait_ready(child)
            assert child.poll() is None


def test_nobody_answers_in_its_place_while_it_loads() -> None:
    """A program that has its port, whoever's, is not taken for it; what it answers at its socket counts alone."""
    with claimed(0) as port:
        thief = socket.socket()
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # one of the same user, which the kernel lets in
        thief.bind(("127.0.0.1", port))
        thief.listen()
        server = _server("import time; time.sleep(60)", port, ready_timeout=1.0)
        with thief, server.child() as child, pytest.raises(NotReady):
            server.wait_ready(child)
        server = _server(_HEALTHY, port)
        with server.child() as child:
            server.wait_ready(child)
            with _another(port), pytest.raises(BadInput, match="another program of this user"), server.answering():
                pass


@contextlib.contextmanager
def _another(port: int) -> Iterator[None]:
    """Another process of this user that listens there."""
    program = (
        "import socket, sys, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('listens', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(port)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    yield
    other.kill()
    other.communicate()


def test_it_answers_at_its_port_once_it_is_ready() -> None:
    """Large bodies both ways, many at once; a client that hangs up is heard of; refused before and after."""
    with claimed(0) as port:
        server = _server(_HEALTHY, port)
        with server.child() as child:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            server.wait_ready(child)
            with server.answering():
                body = os.urandom(3_000_000)
                with ThreadPoolExecutor(8) as pool:
                    answers = [
                        pool.submit(httpx.post, server.url, content=body, timeout=30, trust_env=False) for _ in range(8)
                    ]
                    assert all(one.result().content == 2 * body for one in answers)
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{server.url}/hangs", content=b"x", timeout=0.2, trust_env=False)
                until(lambda: "the client has gone" in server.log, "the server hears that its client has gone")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)


def test_who_asks_a_server_that_has_ended_gets_no_answer() -> None:
    """And nobody else's: the port stays taken for as long as the step lives."""
    with claimed(0) as port:
        server = _server(_HEALTHY, port)
        with server.child() as child:
            server.wait_ready(child)
            with server.answering():
                child.stop()
                with pytest.raises(httpx.TransportError):
                    httpx.get(server.url, timeout=5, trust_env=False)
                with socket.socket() as late:
                    late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with pytest.raises(OSError, match="in use"):
                        late.bind(("127.0.0.1", port))


def test_the_deadline_ends_the_wait_with_the_last_words_of_the_log(tmp_path: Path) -> None:
    with claimed(0) as port:
        program = "import time; print('loading shard 1', flush=True); time.sleep(60)"
        server = _server(program, port, ready_timeout=1.0, log_file=str(tmp_path / "log" / "engine.log"))
        with server.child() as child, pytest.raises(NotReady, match=r"within 1 s(?s:.*)loading shard 1") as caught:
            server.wait_ready(child)
        assert child.poll() is not None
    assert "CARWRIGHT_SERVE__READY_TIMEOUT" in caught.value.remedy
    assert (tmp_path / "log" / "engine.log").read_text() == "loading shard 1\n"


def test_an_early_end_is_explained_by_its_log() -> None:
    with claimed(0) as port:
        line = "Value error, Model architectures ['FooForCausalLM'] are not supported for now."
        server = _server(f"import sys; print({line!r}); sys.exit(1)", port)
        with server.child() as child, pytest.raises(BadInput, match="FooForCausalLM"):
            server.wait_ready(child)


def test_nobody_waits_for_a_server_whose_lease_ran_out(tmp_path: Path) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    with claimed(0) as port:
        server = _server("import time; time.sleep(60)", port, lease=str(lease), lease_seconds=0.2)
        with server.child() as child, pytest.raises(Interrupted, match="lease"):
            server.wait_ready(child)


def test_serving_ends_with_the_lease(tmp_path: Path) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    with claimed(0) as port:
        server = _server("import time; time.sleep(60)", port, lease=str(lease), lease_seconds=0.5)
        with server.child() as child:
            assert "the lease was not renewed for 0.5 s" in server.run_until_stopped(child)
            assert child.poll() is None  # it is the block's end that stops it
        assert child.poll() is not None


def test_a_server_that_ends_while_it_serves_is_an_error() -> None:
    with claimed(0) as port:
        server = _server("import sys; print('RuntimeError: no more'); sys.exit(3)", port)
        with server.child() as child, pytest.raises(NotReady, match=r"code 3\nRuntimeError: no more"):
            server.run_until_stopped(child)


def test_the_plugin_s_word_is_heard() -> None:
    with claimed(0) as port:
        program = "print('(EngineCore pid=1) WARNING [x.py:1] FP8 is EMULATED in bfloat16 on this CPU')" + _HEALTHY
        server = _server(program.replace("print(", "import sys; print(", 1).replace("CPU')", "CPU', flush=True)"), port)
        assert not server.emulates
        with server.child() as child:
            server.wait_ready(child)
        assert server.emulates


GIB = 1 << 30
WEIGHTS_0_30 = (
    "(EngineCore pid=1656) INFO 11-27 14:38:32 [model_runner.py:319] Model loading took 0.26 GiB and 1.704747 seconds"
)
WEIGHTS_0_32 = "(EngineCore pid=2153) INFO 11-27 14:40:06 [gpu_model_runner.py:5187] Model loading took 0.15 GiB memory and 1.165206 seconds"
CACHE = "(EngineCore pid=2153) INFO 11-27 14:40:47 [kv_cache_utils.py:1744] GPU KV cache size: 3,329,952 tokens"


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        ([], None),
        ([WEIGHTS_0_30], (int(0.26 * GIB), 0)),
        ([WEIGHTS_0_32, CACHE], (int(0.15 * GIB), 3_329_952)),
        # Of several GPUs: the heaviest part, and the cache that holds for all.
        ([WEIGHTS_0_32, WEIGHTS_0_30, CACHE, CACHE.replace("3,329,952", "3,000")], (int(0.26 * GIB), 3000)),
        ([CACHE, CACHE.replace("3,329,952", "4,000,000")], (0, 3_329_952)),
    ],
)
def test_what_vllm_says_of_itself_while_it_starts(lines: list[str], facts: tuple[int, int] | None) -> None:
    with claimed(0) as port:
        server = _server(f"print({chr(10).join(lines)!r}, flush=True)\n{_HEALTHY}", port, ready_timeout=60)
        with server.child() as child:
            server.wait_ready(child)
        found = server.start_facts(12.34)
    assert facts == (None if found is None else (found.weights_per_gpu, found.cache_tokens))
    assert found is None or found.seconds == 12.3
