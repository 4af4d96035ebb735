"""HumanEval in the sandbox: the reference solutions all pass, mutated ones do not, and hostile code gets nowhere."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from containers.contract import EvaluateOptions
from containers.errors import BadInput
from containers.evaluate import humaneval, humaneval_plus, sandbox
from containers.evaluate.answer_code import extract_code as written_code
from containers.evaluate.client import Client
from containers.evaluate.sandbox import Limits, Outcome, Sandbox
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROBLEMS = humaneval.problems()


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox.find(Limits(wall=60.0))


def passed(box: Sandbox, written: dict[str, str]) -> set[str]:
    solutions = {name: [PROBLEMS[name].prompt + text] for name, text in written.items()}
    found = asyncio.run(humaneval.score(box, PROBLEMS, solutions))
    return {name for name, outcomes in found.items() if outcomes[0].passed}


def test_all_164_reference_solutions_pass(box: Sandbox) -> None:
    written = {name: one.canonical_solution for name, one in PROBLEMS.items()}
    assert len(written) == 164
    assert passed(box, written) == set(written)


def test_a_slow_answer_does_not_hold_up_the_next_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first problem's program ends only once the second problem's runs; each outcome comes under its own name."""
    monkeypatch.setattr(humaneval.os, "cpu_count", lambda: 2)
    first, second = list(PROBLEMS)[:2]
    second_runs = threading.Event()

    class Box(Sandbox):
        def run(self, program: str) -> Outcome:
            if "slow" in program:
                return Outcome(passed=second_runs.wait(10), detail="")
            second_runs.set()
            return Outcome(passed=False, detail="")

    found = asyncio.run(humaneval.score(Box("", Limits()), PROBLEMS, {first: ["slow"], second: ["quick"]}))
    assert {name: [one.passed for one in outcomes] for name, outcomes in found.items()} == {
        first: [True],
        second: [False],
    }


class Mutant(ast.NodeTransformer):
    """Every number is one more than it was, and every comparison is turned round."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        is_number = isinstance(node.value, int) and not isinstance(node.value, bool)
        return ast.Constant(node.value + 1) if is_number else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        return ast.UnaryOp(ast.Not(), self.generic_visit(node))


def mutated(problem: humaneval.Problem) -> str:
    """The body of the solution with what `Mutant` does to it; the same text where there is nothing to change."""
    tree = ast.parse(problem.prompt + problem.canonical_solution)
    changed = ast.unparse(ast.fix_missing_locations(Mutant().visit(tree)))
    return (
        f"    pass\n\n{changed}\n"
        if changed != ast.unparse(ast.parse(problem.prompt + problem.canonical_solution))
        else ""
    )


def test_mutated_solutions_are_caught(box: Sandbox) -> None:
    """Of those that can be mutated: a few mutants compute the same, or what the few tests of a problem do not ask."""
    some = list(PROBLEMS)[:60]
    written = {name: text for name in some if (text := mutated(PROBLEMS[name]))}
    assert len(written) > 40
    assert len(passed(box, written)) <= 0.1 * len(written)
    assert passed(box, dict.fromkeys(some[:10], "    return None\n")) == set()


@pytest.mark.parametrize(
    ("program", "seen"),
    [
        ("exit(0)", ""),
        ("import os; os._exit(0)", ""),
        ("raise SystemExit", ""),
        ("while True: pass", ""),
        ("x = bytearray(8 << 30)", "MemoryError"),
        ("open('/tmp/big', 'wb').write(b'x' * (64 << 20))", ""),
        ("open('/etc/passwd').read()", "No such file"),
        ("open('/usr/evil', 'w')", "Read-only file system"),
        ("open('/evil', 'w')", "Read-only file system"),
        ("import os; os.kill(1, 9); os.kill(-1, 9)", ""),
        ("import os\nassert any('root' in v or 'HOME' in k for k, v in os.environ.items())", "AssertionError"),
        ("import socket; socket.create_connection(('127.0.0.1', 1), 2)", "refused"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "unreachable"),
        ("import os\nos.setuid(0)", ""),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "not allowed to raise"),
        (
            "import ctypes, os\nassert ctypes.CDLL(None, use_errno=True).mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0",
            "",
        ),
        ("import os; os.fork()", "Operation not permitted"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("import subprocess; subprocess.run(['/bin/true'])", "Operation not permitted"),
        ("print('a' * 10, flush=True)\n1/0", "ZeroDivisionError"),
    ],
)
def test_hostile_programs_get_nowhere(program: str, seen: str) -> None:
    outcome = Sandbox.find(Limits(wall=15.0, cpu=3)).run(program)
    assert not outcome.passed
    assert seen in outcome.detail


def test_files_of_this_machine_are_out_of_sight(box: Sandbox, tmp_path: Path) -> None:
    """Neither a file in the temporary folder nor this repository can be read or changed."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    assert not box.run(f"open({str(secret)!r}).read()").passed
    assert not box.run(f"open({str(secret)!r}, 'w').write('x')").passed
    assert not box.run(f"open({__file__!r}).read()").passed
    assert secret.read_text() == "mine"


def test_a_server_of_this_machine_is_out_of_reach(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not box.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)").passed


def test_nothing_is_run_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox, "in_container", lambda: False)
    with pytest.raises(BadInput, match=r"bubblewrap .* is not installed, and this is not a container"):
        Sandbox.find()
    with pytest.raises(BadInput, match=r"bubblewrap .* is not installed"):
        Sandbox.find(kind="bubblewrap")


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox that a step's container has, where the engine lets no namespace be made."""
    monkeypatch.setattr(sandbox, "in_container", lambda: True)
    return Sandbox.find(Limits(wall=15.0, cpu=3), kind="container")


@pytest.mark.parametrize(
    ("program", "seen"),
    [
        ("import os; os._exit(0)", "ended with code 0"),
        ("while True: pass", ""),
        ("x = bytearray(8 << 30)", "MemoryError"),
        ("open('/etc/passwd').read()", "Permission denied"),
        ("open('/tmp/big', 'w')", "Permission denied"),
        ("import os; os.mkdir('/dev/shm/evil')", "Permission denied"),
        ("import os; os.listdir('/')", "Permission denied"),
        ("import os; open(f'/proc/{os.getppid()}/environ').read()", "Permission denied"),
        ("import os; os.chmod('/tmp', 0o777)", "Operation not permitted"),
        ("import os; os.kill(os.getppid(), 9)", "Operation not permitted"),
        ("import os; os.fork()", "Operation not permitted"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("import socket; socket.socket()", "Operation not permitted"),
        ("import socket; socket.socket(socket.AF_UNIX)", "Operation not permitted"),
        ("import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, 0) == 0  # io_uring_setup", "AssertionError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "not allowed to raise"),
    ],
)
def test_hostile_programs_get_nowhere_in_a_container(container: Sandbox, program: str, seen: str) -> None:
    outcome = container.run(program)
    assert not outcome.passed
    assert seen in outcome.detail


def test_honest_programs_pass_in_a_container(container: Sandbox) -> None:
    assert passed(container, {name: PROBLEMS[name].canonical_solution for name in list(PROBLEMS)[::40]}) == set(
        list(PROBLEMS)[::40]
    )


def plus_file(folder: Path, **changes: object) -> Path:
    """A file of problems as EvalPlus has it; each problem's function is one of numbers."""
    one = {
        "prompt": "def half(x: float) -> float:\n",
        "entry_point": "half",
        "canonical_solution": "    return x / 2\n",
        "base_input": [[2.0]],
        "plus_input": [[3.0], [0.1]],
        "atol": 0,
        "contract": "",
    }
    path = folder / "plus.jsonl"
    path.write_text("".join(json.dumps(one | {"task_id": name} | changes) + "\n" for name in PROBLEMS))
    return path


def test_the_harder_inputs_of_humaneval_plus_decide(box: Sandbox, tmp_path: Path) -> None:
    """Right on the inputs of HumanEval is not enough; a rounding error is no mistake, and another type is one."""
    harder = humaneval_plus.problems(plus_file(tmp_path), PROBLEMS)
    written = {
        "HumanEval/0": "def half(x):\n    return x / 2",
        "HumanEval/1": "def half(x):\n    return x / 2 + 1e-9",
        "HumanEval/2": "def half(x):\n    return float(int(x) // 2)",
        "HumanEval/3": "def half(x):\n    return str(x / 2)",
        "HumanEval/4": "",
    }
    found = asyncio.run(humaneval.score(box, harder, {name: [text] for name, text in written.items()}))
    assert {name for name, (one,) in found.items() if one.passed} == {"HumanEval/0", "HumanEval/1"}


def test_problems_of_humaneval_plus_that_are_missing_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"needs the data set HumanEval\+") as raised:
        humaneval_plus.problems(None, PROBLEMS)
    assert "evaluate.humaneval_plus" in raised.value.remedy
    with pytest.raises(BadInput, match="cannot be read"):
        humaneval_plus.problems(tmp_path / "none", PROBLEMS)
    with pytest.raises(BadInput, match="has 1 of the 164 problems"):
        humaneval_plus.problems(plus_file(tmp_path, task_id="HumanEval/1"), PROBLEMS)
    with pytest.raises(BadInput, match="is not EvalPlus's file"):
        humaneval_plus.problems(plus_file(tmp_path, plus_input="x"), PROBLEMS)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Sure!\n```python\ndef f(x):\n    return x\n\nprint(f(1))\n```\nIt returns x.", "def f(x):\n    return x"),
        ("```\ndef g():\n    pass\n```\n```py\nimport math\ndef f(x):\n    return g(", ""),
        ("```python\nimport math\ndef f(x):\n    return 1\nf(", "import math\n\ndef f(x):\n    return 1"),
        ("def f(x):\n    return 2", "def f(x):\n    return 2"),
        ("I cannot do that.", ""),
        ("```python\nf = 1\n```", ""),
    ],
)
def test_the_function_is_found_in_an_answer(answer: str, found: str) -> None:
    assert written_code(answer, "f") == found


def test_completions_are_asked_for_as_declared() -> None:
    behaviour = Behaviour(text="    return 1\n\ndef other")

    async def ask(url: str) -> list[str]:
        async with Client(EvaluateOptions(endpoint=url, served_model_name="toy")) as client:
            sampling = humaneval.Sampling(api="completions", max_tokens=64)
            return await humaneval.solutions(client, PROBLEMS["HumanEval/0"], sampling)

    with openai_server(behaviour) as url:
        assert asyncio.run(ask(url)) == [PROBLEMS["HumanEval/0"].prompt + "    return 1\n"]


def test_samples_are_asked_for_without_a_seed() -> None:
    """vLLM on a CPU ends at a seeded request whose prompt does not fit into one pass."""
    asked: list[dict[str, object]] = []

    class Asked:
        async def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
            asked.append({"path": path, **body})
            return {"choices": []}

    sampling = humaneval.Sampling(samples=50, temperature=0.2)
    assert asyncio.run(humaneval.solutions(Asked(), PROBLEMS["HumanEval/0"], sampling)) == []  # type: ignore[arg-type]
    (one,) = asked
    assert (one["path"], one["n"], one["temperature"], one["top_p"]) == ("chat/completions", 50, 0.2, 0.95)
    assert "seed" not in one
