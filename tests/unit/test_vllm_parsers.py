"""vLLM's parsers: which are chosen, what is said to vLLM, and what a suite that needs one gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers import suites
from containers.architectures import architectures
from containers.errors import BadInput
from containers.oci.reference import Reference
from containers.suites import SuiteFiles
from containers.vllm_parsers import Parsers, architecture, choose, known
from flows.serving.parsers import arguments
from flows.ship_request import ServingOptions
from flows.targets.description import DeploymentRequest, build
from flows.targets.model import of_folder
from tests.support.deployments import DEMO as REPOSITORY
from tests.support.deployments import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Sequence

QWEN3 = {"architectures": ["Qwen3ForCausalLM"]}
LLAMA = {"architectures": ["LlamaForCausalLM"]}
GPT_OSS = {"architectures": ["GptOssForCausalLM"]}
HERMES = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")


def test_every_architecture_is_one_that_has_a_recipe() -> None:
    assert set(known()) <= {*architectures(), "GptOssForCausalLM"}  # which is published in 4 bits
    assert all(one.arguments for one in known().values())


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": "x"}, {"architectures": [5]}])
def test_a_config_without_architectures_has_no_parsers(config: dict[str, object]) -> None:
    assert architecture(config) == ""
    assert choose(architecture(config)) == Parsers()


def test_a_person_overrides_and_turns_off() -> None:
    assert choose("GptOssForCausalLM").arguments == (
        "--enable-auto-tool-choice", "--tool-call-parser=openai", "--reasoning-parser=openai_gptoss",
    )  # fmt: skip
    assert choose("GptOssForCausalLM", tool_call="mine").tool_call == "mine"
    assert choose("GptOssForCausalLM", tool_call="none", reasoning="none").arguments == ()
    assert choose("LlamaForCausalLM", reasoning="deepseek_r1").arguments == ("--reasoning-parser=deepseek_r1",)


@pytest.mark.parametrize(
    ("config", "given", "needed", "said"),
    [
        (QWEN3, {}, None, HERMES),  # served for people
        (QWEN3, {"tool_call_parser": "none"}, None, ()),
        (QWEN3, {}, (), ()),  # measured by a suite that needs none: its measurement keeps its name
        (QWEN3, {"reasoning_parser": "qwen3"}, (), ("--reasoning-parser=qwen3",)),
        (QWEN3, {}, ("tool-call",), HERMES),
        (GPT_OSS, {}, ("tool-call",), ("--enable-auto-tool-choice", "--tool-call-parser=openai")),
        (LLAMA, {"tool_call_parser": "llama3_json"}, ("tool-call",), (HERMES[0], "--tool-call-parser=llama3_json")),
        (LLAMA, {"tool_call_parser": "none"}, ("tool-call",), ()),
        # said in vLLM's own words, as before there was an option
        (LLAMA, {"vllm_argument": ("--reasoning_parser=x",)}, ("reasoning",), ("--reasoning_parser=x",)),
        (QWEN3, {"vllm_argument": ("--tool-call-parser=x",)}, None, ("--tool-call-parser=x",)),
        (QWEN3, {"vllm_argument": ("--seed=1",)}, ("tool-call",), (*HERMES, "--seed=1")),
    ],
)
def test_what_is_said_to_vllm(
    config: dict[str, object], given: dict[str, object], needed: Sequence[str] | None, said: tuple[str, ...]
) -> None:
    assert arguments(config, ServingOptions.read(given), needed) == said


def test_a_needed_parser_that_nobody_knows_is_asked_for() -> None:
    with pytest.raises(
        BadInput, match="needs a tool-call parser, and none is known for the architecture LlamaForCausalLM"
    ) as caught:
        arguments(LLAMA, ServingOptions(), ("tool-call",))
    assert "--tool-call-parser NAME" in caught.value.remedy
    assert "bfcl-small" in caught.value.remedy
    with pytest.raises(
        BadInput, match="needs a reasoning parser, and none is known for the architecture of this model"
    ):
        arguments({}, ServingOptions(), ("reasoning",))
    assert arguments({}, ServingOptions.read({"reasoning_parser": "none"}), ("reasoning",)) == ()  # it does not think


@pytest.mark.parametrize("name", ["a b", "--x", "x\ny", "a;b", "x" * 65])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(BadInput, match="is not the name of a parser"):
        ServingOptions.read({"tool_call_parser": name})


def test_suites_say_which_parsers_they_need() -> None:
    assert suites.read("bfcl").parsers == ("tool-call",)
    assert suites.read("bfcl-small").parsers == ()
    assert suites.read("reasoning").parsers == ("reasoning",)
    for text in ("", "serving: 5", "serving: {parsers: 5}", "serving: {parsers: [1]}"):
        assert SuiteFiles(name="own", files={"suite.yaml": text}).parsers == ()


def test_deployments_take_them_where_they_are_known() -> None:
    model, reference = of_folder(GOLDEN / "parsers"), Reference.parse(f"{REPOSITORY}@sha256:{'5' * 64}")
    wanted = DeploymentRequest(gpu="cpu", max_model_len=2048)
    assert build(model, reference, wanted).parsers == Parsers(tool_call="hermes")
    off = wanted.model_copy(update={"tool_call_parser": "none"})
    assert build(model, reference, off).parsers == Parsers()
