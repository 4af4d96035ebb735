"""HumanEval in the sandbox: the reference solutions all pass, mutated ones do not, and hostile code gets nowhere."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.evaluate import humaneval, humaneval_plus, sandbox
from containers.evaluate.client import Client
from containers.evaluate.confined.answer_code import extract_code as written_code
from containers.evaluate.humaneval import Solution
from containers.evaluate.sandbox import Outcome, Sandbox, SandboxLimits
from containers.parameters import EvaluateOptions
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROBLEMS = humaneval.problems()


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox.find(SandboxLimits(wall=60.0))


def passed(box: Sandbox, written: dict[str, str]) -> set[str]:
    solutions = {name: [Solution(code=PROBLEMS[name].prompt + text)] for name, text in written.items()}
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
        def run(self, code: str, **_: str) -> Outcome:
            if "slow" in code:
                return Outcome(passed=second_runs.wait(10), detail="")
            second_runs.set()
            return Outcome(passed=False, detail="")

    found = asyncio.run(
        humaneval.score(
            Box("", SandboxLimits()), PROBLEMS, {first: [Solution(code="slow")], second: [Solution(code="quick")]}
        )
    )
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


def test_the_same_solutions_pass_as_answers_in_markdown(box: Sandbox) -> None:
    """The function is taken out of the answer inside the sandbox; the problem's preamble comes before it."""
    some = [f"HumanEval/{number}" for number in (0, 10, 32, 38, 50)]
    answers = {
        name: [
            Solution(
                code=PROBLEMS[name].preamble,
                answer=f"Sure!\n```python\n{PROBLEMS[name].prompt}{PROBLEMS[name].canonical_solution}\nprint(1)\n```\n",
            )
        ]
        for name in some
    }
    found = asyncio.run(humaneval.score(box, PROBLEMS, answers))
    assert {name: one.detail for name, (one,) in found.items() if not one.passed} == {}


_CALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_DENIED = "assert libc.syscall({}) != -1 or ctypes.get_errno() != 1, 'denied'"


def call(*arguments: object) -> str:
    """A program that fails with "denied" where the system call is not permitted."""
    return _CALL + _DENIED.format(", ".join(map(str, arguments)))


# What must not work, and what is said of it; by system call's number on x86_64 where there is no function for it.
REACHING_OUT = {
    "a process": ("import os; os.fork()", "Operation not permitted"),
    "a process by clone3": (call(435, 0, 88), "denied"),
    "a thread": ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
    "another program": ("import os; os.execv('/bin/true', ['true'])", "Operation not permitted"),
    "another program in a process": ("import subprocess; subprocess.run(['/bin/true'])", "Operation not permitted"),
    "a signal to its parent": ("import os; os.kill(os.getppid(), 9)", "Operation not permitted"),
    "a signal to everybody": ("import os; os.kill(-1, 9)", "Operation not permitted"),
    "a signal to a thread": (call(234, "os.getppid()", "os.getppid()", 9), "denied"),
    "a signal by an owned descriptor": (
        "import fcntl, os; fcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())",
        "Operation not permitted",
    ),
    "a signal of choice": ("import fcntl; fcntl.fcntl(3, 10, 9)", "Operation not permitted"),
    "a signal by ioctl": ("import fcntl, os; fcntl.ioctl(3, 0x8901, b'1234')", "Operation not permitted"),
    "a process descriptor": (call(434, "os.getppid()", 0), "denied"),
    "a descriptor of its parent": (call(438, 3, 1, 0), "denied"),
    "a memory file": ("import os; os.memfd_create('x')", "Operation not permitted"),
    "a secret memory file": (call(447, 0), "denied"),
    "shared memory": (call(29, 0, 1 << 30, 0o1600), "denied"),
    "shared memory by name": ("open('/dev/shm/x', 'w')", ""),
    "messages": (call(68, 0, 0o1600), "denied"),
    "a keyring": (call(250, 0, -3, 0), "denied"),
    "a key": (call(248, "b'user'", "b'x'", "b'y'", 1, -3), "denied"),
    "io_uring": (call(425, 8, 0), "denied"),
    "bpf": (call(321, 0, 0, 0), "denied"),
    "performance counters": (call(298, 0, 0, -1, -1, 0), "denied"),
    "a user namespace": (call(272, 0x10000000), "denied"),
    "a mount": ("import ctypes\nassert ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0", "AssertionError"),
    "a mount by descriptor": (call(430, "b'tmpfs'", 0), "denied"),
    "another root": (call(161, "b'/'"), "denied"),
    "ptrace of its parent": (call(101, 16, "os.getppid()", 0, 0), "denied"),
    "memory of its parent": (call(310, "os.getppid()", 0, 0, 0, 0, 0), "denied"),
    "limits of its parent": ("import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", ""),
    "more memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "not allowed to raise",
    ),
    "a pipe with a megabyte": ("import fcntl; fcntl.fcntl(4, 1031, 1 << 20)", "Operation not permitted"),
    "many pipes": ("import os\nfor _ in range(10000): os.pipe()", "Operation not permitted"),
    "a socket": ("import socket; socket.socket()", "Operation not permitted"),
    "a socket of this machine": ("import socket; socket.socket(socket.AF_UNIX)", "Operation not permitted"),
    "a pair of sockets": ("import socket; socket.socketpair()", "Operation not permitted"),
    "other modes": ("import os; os.chmod('/', 0o777)", "Operation not permitted"),
    "a folder": ("import os; os.mkdir('/tmp/x')", "Operation not permitted"),
    "another name": ("import os; os.rename('/usr', '/x')", "Operation not permitted"),
    "a link": ("import os; os.symlink('/', '/tmp/x')", "Operation not permitted"),
    "a file in /tmp": ("open('/tmp/x', 'w')", ""),
    "a file in /": ("open('/x', 'w')", ""),
    "a file of the system": ("open('/usr/x', 'w')", ""),
    "passwords": ("open('/etc/passwd').read()", ""),
    "the environment of its parent": ("import os; open(f'/proc/{os.getppid()}/environ').read()", ""),
    "its own memory as a file": ("open('/proc/self/mem', 'r+b')", ""),
    "variables": ("import os\nassert any('root' in v or 'HOME' in k for k, v in os.environ.items())", "AssertionError"),
    "another user": ("import os; os.setuid(0)", "Operation not permitted"),
    "32-bit calls": (
        ("import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"),
        "ended before its test did",
    ),
    "calls of x32": (call("0x40000000 + 39"), "denied"),
    "memory without end": ("x = bytearray(8 << 30)", "MemoryError"),
    "shared pages without end": ("import mmap; mmap.mmap(-1, 8 << 30)", ""),
    "output without end": ("import sys\nwhile True: sys.stderr.write('x' * (1 << 20))", ""),
    "a line without end": ("import os\nwhile True: os.write(1, b'x' * (1 << 20))", ""),
    "answers without end": ("import os\nwhile True: os.write(4, b'x' * (1 << 16))", "answered with more than"),
    "time without end": ("while True: pass", ""),
    "sleep without end": ("import time; time.sleep(1000)", "did not end within"),
    "a signal that it does not take": (
        ("import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except OSError: pass\nwhile True: pass"),
        "",
    ),
}  # fmt: skip
ATTACKS = [(kind, name) for kind in ("bubblewrap", "container") for name in REACHING_OUT]


@pytest.fixture(scope="module")
def boxes() -> dict[str, Sandbox]:
    """Both sandboxes; the second one is what a step's container has, where the engine lets no namespace be made."""
    limits = SandboxLimits(wall=4.0, cpu=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "in_container", lambda: True)
        return {
            "bubblewrap": Sandbox.find(limits, kind="bubblewrap"),
            "container": Sandbox.find(limits, kind="container"),
        }


@pytest.mark.parametrize(("kind", "name"), ATTACKS, ids=lambda part: part)
def test_hostile_programs_get_nowhere(boxes: dict[str, Sandbox], kind: str, name: str) -> None:
    program, seen = REACHING_OUT[name]
    outcome = boxes[kind].run(program)
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


def test_a_pod_is_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the kubelet sets in every container: containerd leaves no file, and our pods get no token."""
    monkeypatch.setattr(sandbox.Path, "exists", lambda _: False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not sandbox.in_container()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert sandbox.in_container()


def test_honest_programs_pass_in_a_container(boxes: dict[str, Sandbox]) -> None:
    assert passed(
        boxes["container"], {name: PROBLEMS[name].canonical_solution for name in list(PROBLEMS)[::40]}
    ) == set(list(PROBLEMS)[::40])


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
    found = asyncio.run(humaneval.score(box, harder, {name: [Solution(code=text)] for name, text in written.items()}))
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

    async def ask(url: str) -> list[Solution]:
        async with Client(EvaluateOptions(endpoint=url, served_model_name="toy")) as client:
            sampling = humaneval.CodeSampling(api="completions", max_tokens=64)
            return await humaneval.solutions(client, PROBLEMS["HumanEval/0"], sampling)

    with openai_server(behaviour) as url:
        assert asyncio.run(ask(url)) == [Solution(code=PROBLEMS["HumanEval/0"].prompt + "    return 1\n")]


def test_samples_are_asked_for_without_a_seed() -> None:
    """vLLM on a CPU ends at a seeded request whose prompt does not fit into one pass."""
    asked: list[dict[str, object]] = []

    class Asked:
        async def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
            asked.append({"path": path, **body})
            return {"choices": [{"message": {"content": "x"}}] * given}

    sampling, given = humaneval.CodeSampling(samples=50, temperature=0.2), 50
    assert len(asyncio.run(humaneval.solutions(Asked(), PROBLEMS["HumanEval/0"], sampling))) == 50  # type: ignore[arg-type]
    (one,) = asked
    assert (one["path"], one["n"], one["temperature"], one["top_p"]) == ("chat/completions", 50, 0.2, 0.95)
    assert "seed" not in one
    given = 1  # as of a server that knows no `n`: pass@1 of one answer is not that of 50
    with pytest.raises(BadInput, match="gave 1 answers where 50 were asked for"):
        asyncio.run(humaneval.solutions(Asked(), PROBLEMS["HumanEval/0"], sampling))  # type: ignore[arg-type]
