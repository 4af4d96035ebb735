"""Which way of reading weights is planned, and what happens where it does not work."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from containers.contract import Step, StepRequest
from containers.errors import BadInput, Temporary
from containers.events import Reporter
from containers.parameters import Endpoint, ServeOptions, ServeParameters
from containers.ports import claimed
from containers.process import inherited
from containers.serve import loading
from containers.serve.__main__ import work
from containers.serve.server import VllmServer
from containers.settings import ServeSettings, StepSettings
from containers.step import Context
from flows.serving import load_format
from flows.serving.load_format import FAST, chosen
from flows.serving.plan import Plans, ServicePlan
from infra.accelerators import Gpu
from infra.settings import FlowServeSettings, PlacementSettings, Settings
from tests.support.environment_desk import Desk
from tests.support.package_index import pin, wheel
from tests.support.waiting import until

GB = 10**9
DOCKER: dict[str, Any] = {"launcher": "docker", "resources": {"serve": {"gpus": 1}}}


def card(index: int, free: int) -> Gpu:
    return Gpu(index=index, name="NVIDIA H100 80GB HBM3", memory=85 * GB, free=free)


CARDS = (card(0, 84 * GB), card(1, 84 * GB))


def service(**changes: Any) -> ServicePlan:
    said = {
        "role": "baseline",
        "gpu": "NVIDIA H100 80GB HBM3",
        "gpus": ("0",),
        "max_model_len": 2048,
        "weights": 16 * GB,
    }
    return ServicePlan.model_validate({**said, **changes})


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, (), "by fastsafetensors"),
        (
            {"gpus": ("0", "1"), "tensor_parallel_size": 2, "weights": 70 * GB},
            ("--enforce-eager",),
            "by fastsafetensors",
        ),
        ({"weights": 74 * GB}, (), "by fastsafetensors"),  # 84 GB are just enough
        ({"weights": 75 * GB}, (), "by vLLM's default: fastsafetensors needs 10 GB beside the weights"),
        ({"weights": 0}, (), "by vLLM's default: the size of the weights is not known"),
        ({"pipeline_parallel_size": 2}, (), "by vLLM's default: fastsafetensors was not measured with pipeline"),
        ({}, ("--load-format=auto",), "by vLLM's default: --load-format is yours"),
        ({}, ("--enforce-eager", "--load_format", "--seed=1"), "by vLLM's default: --load_format is yours"),
        ({}, ("--load-fo=runai_streamer",), "by vLLM's default: --load-fo is yours"),
        ({}, ("--quantization=bitsandbytes",), "by vLLM's default: --quantization is yours"),
        ({}, ("--config=/etc/vllm.yaml",), "by vLLM's default: --config is yours"),
    ],
)
def test_what_is_planned(changes: dict[str, Any], arguments: tuple[str, ...], words: str) -> None:
    found = chosen(service(**changes), CARDS, arguments, Settings(**DOCKER))
    assert found.loading.startswith(words)
    assert found.load_format == (FAST if words == "by fastsafetensors" else "")
    assert f"; loaded {found.loading}" in str(found)


def test_the_fullest_of_its_gpus_bounds_the_room() -> None:
    split = service(gpus=("0", "1"), tensor_parallel_size=2, weights=70 * GB)
    assert not chosen(split, (card(0, 84 * GB), card(1, 79 * GB)), (), Settings(**DOCKER)).load_format
    assert chosen(split, (*CARDS, card(2, 1 * GB)), (), Settings(**DOCKER)).load_format


def test_processors_and_servers_of_others_are_left_alone() -> None:
    for plan in (
        ServicePlan(role="baseline", max_model_len=1),
        service(endpoint="http://gpu:8000/v1", server="vllm 1"),
    ):
        assert chosen(plan, CARDS, (), Settings(**DOCKER)) == plan


def test_both_services_are_looked_at() -> None:
    both = Plans(baseline=service(weights=80 * GB), candidate=service(role="candidate", weights=40 * GB))
    found = load_format.of_both(both, CARDS, (), Settings(**DOCKER))
    assert (found.baseline.load_format, found.candidate.load_format) == ("", FAST)


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        (Settings(), True),  # of the CUDA build's lock
        (Settings(**DOCKER), True),
        (Settings(**DOCKER, serve=FlowServeSettings(gpu_image="serve")), False),  # made from an image of others
        (Settings(placement=PlacementSettings(serve="run-step/gpu")), False),
        (Settings(serve=FlowServeSettings(python=Path(sys.executable))), False),
    ],
)
def test_where_the_package_is_known_to_be(settings: Settings, known: bool) -> None:
    assert load_format.available(settings) is known


def test_an_environment_of_the_users_own_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk.at(tmp_path, monkeypatch)
    desk.lock.write_text(pin(wheel(desk.index, FAST, "0.5.0")))
    assert load_format.available(Settings(serve=FlowServeSettings(python=desk.make().python)))


READY = """
import http.server, socketserver, sys
print("ready with", sys.argv[2:], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def address_string(self): return "-"
    def log_message(self, *_): pass
socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""
# What stands in for vLLM: listens early, as vLLM does, says what it is told to, and ends where it was given a format.
FAILING = """
import socket, sys
if len(sys.argv) > 2:
    socket.socket(socket.AF_UNIX).bind(sys.argv[1])
    print({said!r}, flush=True)
    sys.exit(1)
"""


def serving(said: str, load_format: str, tmp_path: Path, made: list[str]) -> str:
    """The log of the server that got ready, with the lines that the step reported."""
    reported = StringIO()
    with claimed(0) as port:

        def make(given: str) -> VllmServer:
            made.append(given)
            socket = tmp_path / "s"
            return VllmServer(
                argv=[
                    sys.executable,
                    "-c",
                    FAILING.format(said=said) + READY,
                    str(socket),
                    *([given] if given else []),
                ],
                env=inherited(),
                socket=socket,
                port=port,
                served_model_name="demo",
                options=ServeOptions(ready_timeout=30),
                report=Reporter(reported, structured=True),
                load_format=given,
            )

        with loading.ready(make, load_format) as (server, child):
            assert child.poll() is None
            assert server.load_format == ""
    return reported.getvalue()


@pytest.mark.parametrize(
    "said",
    [
        "INFO Starting to load model /models/x...\nERROR CUDA out of memory. Tried to allocate 5.00 GiB",
        "api_server.py: error: argument --load-format: invalid choice: 'fastsafetensors'",
        "ModuleNotFoundError: No module named 'fastsafetensors'",
    ],
)
def test_a_load_that_fails_is_tried_once_more_with_the_default(said: str, tmp_path: Path) -> None:
    made: list[str] = []
    reported = serving(said, FAST, tmp_path, made)
    assert made == [FAST, ""]
    assert "could not load the weights by fastsafetensors, so it starts again with its default" in reported


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Value error, Model architectures ['FooForCausalLM'] are not supported for now.", BadInput),
        ("Starting to load model x\nModel loading took 15.0 GiB memory and 8 seconds\nCUDA out of memory.", Temporary),
    ],
)
def test_what_is_not_about_loading_fails_at_once(said: str, error: type[Exception], tmp_path: Path) -> None:
    made: list[str] = []
    with pytest.raises(error):
        serving(said, FAST, tmp_path, made)
    assert made == [FAST]


OWN_PYTHON = """#!{python}
import http.server, socketserver, sys
words = sys.argv[1:]
if words[0] == "-c":
    print("vllm 0.23.0")
    sys.exit()
print("INFO Starting to load model", words, flush=True)
if "--load-format" in words and {broken}:
    print("ERROR RuntimeError: CUDA error: out of room", flush=True)
    sys.exit(1)
print("INFO Model loading took 15.0 GiB memory and 0.9 seconds", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self): self.rfile.read(int(self.headers["Content-Length"])); self.do_GET()
    def address_string(self): return "-"
    def log_message(self, *_): pass
socketserver.ThreadingUnixStreamServer(words[words.index("--uds") + 1], Handler).serve_forever()
"""


@pytest.mark.parametrize(("broken", "used"), [(False, FAST), (True, "")])
def test_the_step_serves_as_planned_and_says_how_it_loaded(broken: bool, used: str, tmp_path: Path) -> None:
    """The whole step over a program that stands in for a user's own vLLM on a GPU; its log has both starts."""
    python, model = tmp_path / "python", tmp_path / "model"
    python.write_text(OWN_PYTHON.format(python=sys.executable, broken=broken))
    python.chmod(0o755)
    model.mkdir()
    (model / "config.json").write_text("{}")
    lease = tmp_path / "lease"
    lease.touch()
    scratch = tmp_path / "s"
    scratch.mkdir()
    settings = StepSettings(home=tmp_path / "home", cache=tmp_path / "cache", serve=ServeSettings(python=python))
    reported = StringIO()
    context = Context(settings, Reporter(reported, structured=True), scratch, tmp_path / "result.json")
    options = ServeOptions(
        folder=str(model),
        lease=str(lease),
        load_format=FAST,
        log_file=str(tmp_path / "log"),
    )
    parameters = ServeParameters(served_model_name="m")
    request = StepRequest(step=Step.SERVE, run="r", parameters=parameters.dump(), options=options.dump())

    def end_when_it_serves() -> None:
        until(context.result_path.exists, "the model is served")
        lease.unlink()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end_when_it_serves)
        result = work(request, context)
        ended.result()
    start = Endpoint.read(result.values).start
    assert start is not None
    assert (start.load_format, start.weights_per_gpu) == (used, 15 << 30)
    assert (tmp_path / "log").read_text().count("Starting to load model") == 1 + broken
    assert ("starts again with its default" in reported.getvalue()) is broken
