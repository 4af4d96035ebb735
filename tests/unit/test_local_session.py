"""`carwright eval`, `compare` and `serve` plan how a model is served before anything of it is fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from containers.contract import Kind, Step, StoreLocation
from containers.errors import BadInput
from containers.parameters import QuantizeParameters, ResolvedSource, ServeParameters
from containers.settings import StoreSettings
from containers.store import Store
from flows.cli.main import app
from flows.cli.options import on_device
from flows.local.session import Session
from flows.runtime import Runtime
from flows.serving.parsers import unseen
from flows.ship_request import ServingOptions
from infra.settings import Settings
from tests.support.gpus import OLD_DRIVER, TWO, driver
from tests.support.openai_server import Behaviour, openai_server
from tests.support.played_steps import PlayedLauncher, PlayedServices

if TYPE_CHECKING:
    from pathlib import Path

    from containers.contract import StepRequest, StepResult
    from containers.events import Event, OnEvent

COMMANDS = typer.main.get_command(app).commands
SIZES = {"8B": (4096, 14336, 32, 32, 16_060_556_376), "70B": (8192, 28672, 80, 64, 141_107_497_872)}


def source(model: str) -> ResolvedSource:
    hidden, intermediate, layers, heads, weights = SIZES[model]
    config = {
        "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_attention_heads": heads, "num_key_value_heads": 8,
        "vocab_size": 128256, "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
    }  # fmt: skip
    return ResolvedSource(
        source=f"hf://a/{model}", pinned=f"hf://a/{model}@{'0' * 40}", commit="0" * 40, files=1, size=weights,
        weights=weights, config=config,
    )  # fmt: skip


@dataclass
class Launcher(PlayedLauncher):
    """Resolves the models above."""

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        done = super().run(request, on_event)
        if request.parameters.get("action") == "resolve":
            return done.model_copy(
                update={"values": source(str(request.parameters["source"])[len("hf://a/") :]).dump()}
            )
        return done


@dataclass
class Services(PlayedServices):
    requests: list[StepRequest] = field(default_factory=list)

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> PlayedServices:
        self.requests.append(request)
        return super().start(request, on_event, keep=keep)


@dataclass
class Bench:
    session: Session
    launcher: Launcher
    services: Services
    said: list[str]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """On a machine with two H100, and nothing else on them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, monkeypatch, TWO.replace(" 12,", " 81079,"))
    return made(tmp_path, Settings(home=tmp_path))


def made(folder: Path, settings: Settings) -> Bench:
    (folder / "store").mkdir()
    store = Store.open(
        StoreLocation(endpoint="http://127.0.0.1:9"), StoreSettings(folder=folder / "store", direct=True)
    )
    launcher, services, said = Launcher(store), Services(), list[str]()

    def listener(_: str, event: Event) -> None:
        said.append(event.message)

    return Bench(Session(Runtime(settings, store, launcher, services, listener, "run")), launcher, services, said)


def test_a_model_is_measured_as_planned_for_the_gpus(bench: Bench) -> None:
    serving = ServingOptions(gpu_memory_utilization=0.8, vllm_argument=["--seed=1"], concurrency=5)
    bench.session.measure("hf://a/8B", "candidate", "smoke", serving)
    served = ServeParameters.read(bench.services.requests[0].parameters)
    assert (served.tensor_parallel_size, served.gpu_memory_utilization) == (1, 0.8)
    assert served.arguments == ("--seed=1",)
    assert served.max_model_len == 2048  # what the suite needs
    assert bench.services.requests[0].options["devices"] == ["0"]
    measured = bench.launcher.requests[-1]
    assert measured.step is Step.EVALUATE
    assert (measured.options["concurrency"], measured.options["gpus"]) == (5, 1)
    assert str(measured.parameters["engine"]).endswith(" --seed=1")
    assert bench.launcher.asked == ["resolve", "check", "download", "measure"]
    assert bench.launcher.requests[1].parameters["arguments"] == ["--seed=1"]
    assert any(line.startswith("plan: candidate: 1 x NVIDIA H100") for line in bench.said)


def test_a_suite_that_calls_tools_gets_the_parser_that_was_named(bench: Bench) -> None:
    """It is part of what is served, of the measurement's name, and of what vLLM is asked about before the download."""
    with pytest.raises(
        BadInput, match="needs a tool-call parser, and none is known for the architecture LlamaForCausalLM"
    ):
        bench.session.measure("hf://a/8B", "candidate", "bfcl", ServingOptions())
    assert bench.launcher.asked == ["resolve"]
    bench.session.measure("hf://a/8B", "candidate", "bfcl", ServingOptions(tool_call_parser="llama3_json"))
    said = ("--enable-auto-tool-choice", "--tool-call-parser=llama3_json")
    assert ServeParameters.read(bench.services.requests[0].parameters).arguments == said
    assert str(bench.launcher.requests[-1].parameters["engine"]).endswith(" ".join(said))
    assert bench.launcher.asked[1:] == ["resolve", "check", "download", "measure"]


def test_of_an_endpoint_it_is_said_that_its_parsers_are_not_seen(bench: Bench) -> None:
    """Once: a later look is at the same server."""
    other = Behaviour(hidden=("/version", "/tokenize"), ignores_echo=True, context=0)
    with openai_server(other) as url:
        bench.session.measure(url, "candidate", "reasoning", ServingOptions())
        first = list(bench.said)
        bench.session.measure(url, "candidate", "reasoning", ServingOptions(), look=2)
    assert [line for line in first if "parser" in line] == [
        f"{url} is to have a reasoning parser, which does not show from outside: what it leaves in an answer counts as the answer"
    ]
    assert sum("lacks" in line for line in first) == 4
    assert bench.said == first
    assert unseen("http://x/v1", ("tool-call",)) == (
        "http://x/v1 is to have a tool-call parser, which does not show from outside: what it leaves in an answer counts as the answer",
    )


def test_a_stored_measurement_needs_no_server(bench: Bench) -> None:
    first = bench.session.measure("hf://a/8B", "candidate", "smoke", ServingOptions())
    again = bench.session.measure("hf://a/8B", "candidate", "smoke", ServingOptions())
    assert again.ref == first.ref
    assert len(bench.services.requests) == 1
    assert first.ref.kind is Kind.MEASUREMENT


def test_a_comparison_in_looks_goes_on_until_it_is_decided(bench: Bench, tmp_path: Path) -> None:
    """Each look of each model is stored: a second command measures nothing."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "suite.yaml").write_text("looks: [{questions: 0.5}, {}]\nserving: {max_model_len: 512}\n")
    bench.launcher.by_look = ("inconclusive", "refuse")
    verdict = bench.session.judge("hf://a/8B", "hf://a/70B", str(folder), ServingOptions())
    assert (verdict.decision, verdict.look) == ("refuse", 2)
    assert [one for one in bench.launcher.asked if one in {"measure", "judge"}] == ["measure", "measure", "judge"] * 2
    assert len(bench.services.requests) == 4
    bench.session.judge("hf://a/8B", "hf://a/70B", str(folder), ServingOptions())
    assert len(bench.services.requests) == 4
    (stored,) = {
        str(one.inputs["candidate"].fingerprint) for one in bench.launcher.requests if "candidate" in one.inputs
    }
    bench.launcher.asked.clear()
    alone = bench.session.judge(f"measurement:{stored}", f"measurement:{stored}", str(folder), ServingOptions())
    assert (alone.decision, alone.look) == ("inconclusive", 1)
    assert "measure" not in bench.launcher.asked


@pytest.mark.parametrize("baseline", ["hf://a/70B", "http://127.0.0.1:9/v1"])
def test_a_suite_of_speed_fetches_nothing_for_times_that_cannot_be_compared(bench: Bench, baseline: str) -> None:
    """The one needs more GPUs than the other, or is served nobody knows where."""
    with pytest.raises(BadInput, match="times from different hardware are not compared"):
        bench.session.judge("hf://a/8B", baseline, "speed", ServingOptions())
    assert set(bench.launcher.asked) == {"resolve"}
    assert not bench.services.requests


def test_nothing_is_fetched_before_both_are_known_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, monkeypatch, TWO.splitlines(keepends=True)[0])
    bench = made(tmp_path, Settings(home=tmp_path))
    with pytest.raises(BadInput, match=r"the candidate \(LlamaForCausalLM, 141\.1 GB\) .* does not fit"):
        bench.session.judge("hf://a/70B", "hf://a/8B", "smoke", ServingOptions())
    assert bench.launcher.asked == ["resolve", "resolve"]
    assert bench.services.served == []


def test_the_memory_of_processors_is_looked_at_too(tmp_path: Path) -> None:
    bench = made(tmp_path, Settings(home=tmp_path, launcher="docker", resources={"serve": {"memory_gib": 8}}))
    with pytest.raises(BadInput, match="does not fit the memory"):
        bench.session.measure("hf://a/8B", "candidate", "smoke", ServingOptions())
    assert bench.launcher.asked == ["resolve"]


def test_a_served_model_has_the_length_that_was_asked_for(bench: Bench) -> None:
    subject = bench.session.fetch(bench.session.locate("hf://a/8B", "mine", 4096, ServingOptions()))
    assert (subject.parameters.served_model_name, subject.parameters.max_model_len) == ("mine", 4096)
    assert subject.devices == ("0",)
    with pytest.raises(BadInput, match="neither a reference nor a model source"):
        bench.session.locate("nothing", "", 4096, ServingOptions())


def test_a_check_says_why_gpus_go_unused_but_not_for_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver(tmp_path, monkeypatch, OLD_DRIVER)
    bench = made(tmp_path, Settings(home=tmp_path))
    bench.session.check("smoke", "http://127.0.0.1:1/v1", "measurement:12")
    assert bench.said == []
    bench.session.check("smoke", "hf://a/8B")
    assert ["go unused" in line for line in bench.said] == [True]


@pytest.mark.parametrize("command", ["eval", "compare", "serve", "ship"])
def test_commands_that_serve_have_the_options_of_serving(command: str) -> None:
    flags = {flag for one in COMMANDS[command].params for flag in one.opts}
    wanted = {f"--{name.replace('_', '-')}" for name in ServingOptions.model_fields}
    if command == "serve":
        wanted -= {"--concurrency"}
    assert wanted | {"--device"} <= flags


def test_the_device_of_an_option_counts_for_more_than_the_settings() -> None:
    assert on_device(Settings(device="cpu"), "cuda").device == "cuda"
    assert on_device(Settings(device="cpu"), None).device == "cpu"
    with pytest.raises(BadInput, match="the launcher is docker"):
        on_device(Settings(launcher="docker"), "cpu")


def test_a_torch_of_the_users_own_is_told_to_use_processors(tmp_path: Path) -> None:
    """It would find GPUs by itself."""
    ref: Any = made(tmp_path, Settings(home=tmp_path)).session.download("hf://a/8B")[1]
    for settings, device in ((Settings(device="cpu"), "cpu"), (Settings(), "auto")):
        (tmp_path / device).mkdir()
        bench = made(tmp_path / device, settings)
        bench.session.quantize(ref, QuantizeParameters())
        assert bench.launcher.requests[-1].options["device"] == device
