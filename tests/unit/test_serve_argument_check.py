"""Arguments for vLLM are tried before there is a model; a small program stands in for vLLM's own parser."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.events import Reporter
from containers.parameters import ServeParameters
from containers.serve.argument_check import check_arguments
from containers.serve.vllm_command import InstalledVllm
from containers.settings import StepSettings
from containers.step import Context

if TYPE_CHECKING:
    from pathlib import Path

# As vLLM: arguments are parsed first, and an empty folder is no model.
_VLLM = f"""#!{sys.executable}
import argparse, os, sys
parser = argparse.ArgumentParser(prog="api_server.py")
parser.add_argument("--model")
parser.add_argument("--kv-cache-dtype", choices=["auto", "fp8"])
parser.add_argument("--tool-call-parser")
known = ["--served-model-name", "--uds", "--max-model-len", "--dtype", "--tensor-parallel-size", "--max-logprobs"]
for name in known:
    parser.add_argument(name)
for name in ("--disable-uvicorn-access-log", "--disable-log-stats"):
    parser.add_argument(name, action="store_true")
args = parser.parse_args(sys.argv[3:])
assert os.listdir(args.model) == []
if args.tool_call_parser not in (None, "hermes"):
    raise KeyError("invalid tool call parser: " + args.tool_call_parser + " (chose from {{ hermes,mistral }})")
sys.exit("Value error, Invalid repository ID or local directory specified")
"""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    python = tmp_path / "python"
    python.write_text(_VLLM)
    python.chmod(0o755)
    settings = StepSettings(home=tmp_path / "home", cache=tmp_path / "cache")
    return Context(settings, Reporter(StringIO(), structured=True), tmp_path, tmp_path / "result.json")


def check(context: Context, *arguments: str) -> None:
    parameters = ServeParameters(action="check", served_model_name="none", arguments=arguments)
    check_arguments(InstalledVllm("vllm", "0.32.0"), parameters, context, context.scratch / "python")


def test_what_it_takes_is_no_error_and_leaves_nothing(context: Context) -> None:
    check(context, "--kv-cache-dtype=fp8")
    assert [one.name for one in context.scratch.iterdir()] == ["python"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--kv-cache-dtyp3=fp8", "unrecognized arguments: --kv-cache-dtyp3=fp8"),
        ("--kv-cache-dtype=int3", "argument --kv-cache-dtype: invalid choice: 'int3'"),
        ("--help", "with --help vLLM ends at once"),
    ],
)
def test_what_it_does_not_take_is_bad_input(context: Context, argument: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        check(context, argument)
    assert "--vllm-argument" in caught.value.remedy


def test_a_parser_that_it_has_not_is_bad_input(context: Context) -> None:
    """vLLM looks at its name after argparse and before the model; the words are those of its `validate_api_server_args`."""
    check(context, "--tool-call-parser=hermes")
    with pytest.raises(BadInput, match=r"this vLLM has no tool call parser 'hermse', did you mean hermes\?") as caught:
        check(context, "--tool-call-parser=hermse")
    assert caught.value.remedy == "it has hermes, mistral"
