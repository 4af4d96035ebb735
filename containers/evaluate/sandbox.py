"""Runs Python code that a model wrote, without trusting it, and judges what it computes.

Two processes do that, in the sandbox both (`containers.evaluate.confined`). One runs the code. The other one runs the test
and compares; it knows the code's answers as data alone, and only it can say that they are right. Neither can make a
process, a thread, a socket or a file, send a signal, or call anything else of the system that computing does not take (an
allow-list of system calls); time, memory and the size of what is answered have limits.

Under bubblewrap the two also have a file system of their own (this Python and the system's libraries, nothing writable) and
their own user, process, network and IPC namespaces, no capability, and no variable of this environment. In a container,
where the container engine forbids new namespaces, they can read the same folders and no other file (Landlock). Without
either, nothing is run.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from containers.contract import Frozen
from containers.errors import BadInput
from containers.pipes import TooMuchOutput
from containers.process import ProcessFailed, TimedOut, inherited, run

Kind = Literal["auto", "bubblewrap", "container"]

_CONFINED: Final = Path(__file__).with_name("confined")
_PACKAGE: Final = "containers/evaluate/confined"
_SHOWN_AT: Final = "/confined"  # the folder above the package, inside bubblewrap
# What lies beside the package is not for the program, which has Python's own library alone.
_START: Final = (
    "import sys; sys.path.append({root!r}); from containers.evaluate.confined.main import main; sys.path.pop(); main()"
)
_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/bin")
_DEVICES: Final = ("/dev/null", "/dev/urandom")
_CONTAINER_MARKS: Final = ("/.dockerenv", "/run/.containerenv")
_IN_A_POD: Final = "KUBERNETES_SERVICE_HOST"  # which the kubelet sets in every container; containerd leaves no mark
_DETAIL_LENGTH: Final = 400  # characters of what went wrong that are kept
_LONGEST_VERDICT: Final = 1 << 16  # bytes
_LONGEST_CODE: Final = 1 << 20  # characters
_GRACE: Final = 5.0  # seconds that the judge has to say that the time is over
_NO_TEST: Final = "def check(candidate): pass"


class SandboxLimits(Frozen):
    """`wall` and `cpu` in seconds; `memory`, `file` and `answer`, all that a program answers, in bytes."""

    wall: float = 20.0
    cpu: int = 10
    memory: int = 1 << 30
    file: int = 16 << 20
    answer: int = 16 << 20


class Outcome(Frozen):
    passed: bool
    detail: str


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that works on this machine; create it with `find`. `bwrap` is empty for the container's sandbox."""

    bwrap: str
    limits: SandboxLimits

    @classmethod
    def find(cls, limits: SandboxLimits | None = None, *, kind: Kind = "auto") -> Sandbox:
        """The first sandbox that works here; raises BadInput if none does, or not the requested kind."""
        limits = limits or SandboxLimits()
        missing = []
        if kind != "container":
            bwrap = shutil.which("bwrap")
            why = cls(bwrap, limits).failure() if bwrap else "bubblewrap (bwrap) is not installed"
            if bwrap and not why:
                return cls(bwrap, limits)
            missing.append(why)
        if kind != "bubblewrap":
            why = cls("", limits).failure() if in_container() else "this is not a container"
            if not why:
                return cls("", limits)
            missing.append(why)
        raise BadInput(
            f"no sandbox for generated code: {', and '.join(missing)}",
            remedy="install bubblewrap and allow user namespaces, or run the step in its container on a system with "
            "Landlock; generated code is never run without a sandbox",
            doctor="sandbox",
        )

    def __str__(self) -> str:
        return "under bubblewrap" if self.bwrap else "with the container's limits, Landlock and a system call filter"

    def failure(self) -> str:
        """Why it does not work; empty when it does."""
        outcome = self.run("pass")
        return "" if outcome.passed else f"{'bubblewrap' if self.bwrap else 'Landlock'} does not work: {outcome.detail}"

    def run(
        self, code: str, *, answer: str = "", entry_point: str = "", preamble: str = "", test: str = _NO_TEST
    ) -> Outcome:
        """Whether the code, and what a model's `answer` in Markdown has of the function `entry_point`, passes the test.

        `test` defines `check(candidate)`, which raises when the function is wrong; it and `preamble`, whose names it may
        use, are trusted. Without a test it passes when it ends without an exception, if it is honest.
        """
        if len(code) + len(answer) > _LONGEST_CODE:
            return Outcome(passed=False, detail=f"the program has more than {_LONGEST_CODE} characters")
        order = {"code": code, "answer": answer, "entry_point": entry_point, "preamble": preamble, "test": test}
        limits = {**self.limits.model_dump(), "readable": None if self.bwrap else self._readable()}
        root = _SHOWN_AT if self.bwrap else str(_CONFINED.parents[2])
        python = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-c", _START.format(root=root)]
        try:
            done = run(
                [*(self._namespaces() if self.bwrap else []), *python],
                env={},
                timeout=self.limits.wall + _GRACE,
                check=False,
                stdin=f"{json.dumps(limits)}\n{json.dumps(order)}",
                most=_LONGEST_VERDICT,
            )
        except TimedOut:
            return Outcome(passed=False, detail=f"did not end within {self.limits.wall:g} s")
        except (ProcessFailed, TooMuchOutput) as error:
            return Outcome(passed=False, detail=str(error)[-_DETAIL_LENGTH:])
        if done.code == 0:
            return Outcome.model_validate_json(done.stdout)
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.code}"]
        return Outcome(passed=False, detail=last[0][-_DETAIL_LENGTH:])

    def _readable(self) -> list[str]:
        return [*(path for path in _SYSTEM if Path(path).is_dir()), str(_prefix())]

    def _namespaces(self) -> list[str]:
        argv = [self.bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
        argv += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
        for path in _SYSTEM:
            if Path(path).is_symlink():
                argv += ["--symlink", str(Path(path).readlink()), path]
            elif Path(path).is_dir():
                argv += ["--ro-bind", path, path]
        if not _prefix().is_relative_to("/usr"):
            argv += ["--ro-bind", str(_prefix()), str(_prefix())]
        # No /proc: a program has no business there, and in a container, which sees only part of it, none can be mounted. And
        # no /dev/shm and no /tmp: nothing is writable.
        argv += ["--ro-bind", str(_CONFINED), f"{_SHOWN_AT}/{_PACKAGE}"]
        argv += [word for path in _DEVICES for word in ("--dev-bind", path, path)]
        return [*argv, "--chdir", "/", "--remount-ro", "/"]


def in_container() -> bool:
    """Whether this process runs in a container of Docker, Podman or Kubernetes."""
    return any(Path(mark).exists() for mark in _CONTAINER_MARKS) or _IN_A_POD in inherited(_IN_A_POD)


def _prefix() -> Path:
    """Where this Python and its library are."""
    return Path(sys.base_prefix).resolve()


def main() -> None:
    """`python -m containers.evaluate.sandbox [KIND]` says which sandbox works here, or ends with code 2 and says why none does."""
    kind: Any = sys.argv[1] if len(sys.argv) > 1 else "auto"
    try:
        print(Sandbox.find(kind=kind))
    except BadInput as error:
        print(f"{error.message}\n{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
