"""Runs Python code that a model wrote, without trusting it.

Under bubblewrap the program gets a file system of its own (this Python and the system's libraries, read only; an empty
/tmp in memory), its own user, process, network and IPC namespaces, no capability, no variable of this environment, no
way to start a process or a thread, and limits of processor time, memory, file size and wall time.

In a container, where the container engine forbids new namespaces, the program gets the same limits, reads this Python
and the system's libraries and no other file (Landlock), writes nothing, and cannot make a socket, a process or a thread,
send a signal or look into another process (a system call filter). Without either, nothing is run.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from containers.contract import Frozen
from containers.errors import BadInput
from containers.process import ProcessFailed, TimedOut, run

Kind = Literal["auto", "bubblewrap", "container"]

_CONFINED: Final = Path(__file__).with_name("_confined.py")
_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/bin")
_CONTAINER_MARKS: Final = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
_DETAIL_LENGTH: Final = 400  # characters of what went wrong that are kept


class Limits(Frozen):
    """`wall` and `cpu` in seconds, `memory` and `file` in bytes."""

    wall: float = 20.0
    cpu: int = 10
    memory: int = 1 << 30
    file: int = 16 << 20


class Outcome(Frozen):
    passed: bool
    detail: str


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that works on this machine; create it with `find`. `bwrap` is empty for the container's sandbox."""

    bwrap: str
    limits: Limits

    @classmethod
    def find(cls, limits: Limits | None = None, *, kind: Kind = "auto") -> Sandbox:
        """The first sandbox that works here; raises BadInput if none does, or not the requested kind."""
        limits = limits or Limits()
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

    def run(self, program: str) -> Outcome:
        """Whether the program ran to its end without an exception, within the limits."""
        token = secrets.token_hex(16)
        order = {"program": program, "token": token, **self.limits.model_dump(exclude={"wall"})}
        python = [str(Path(sys.executable).resolve()), "-I", "-S", "-B"]
        if self.bwrap:
            argv = [*self._namespaces(), *python, "/confined.py"]
        else:
            argv = [*python, str(_CONFINED)]
            order["readable"] = [*(path for path in _SYSTEM if Path(path).is_dir()), str(_prefix())]
        try:
            done = run(argv, env={}, timeout=self.limits.wall, check=False, stdin=json.dumps(order) + "\n")
        except TimedOut:
            return Outcome(passed=False, detail=f"did not end within {self.limits.wall:g} s")
        except ProcessFailed as error:
            return Outcome(passed=False, detail=str(error)[-_DETAIL_LENGTH:])
        if done.stdout == token:
            return Outcome(passed=True, detail="")
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.code}"]
        return Outcome(passed=False, detail=last[0][-_DETAIL_LENGTH:])

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
        # No /proc: a program has no business there, and in a container, which sees only part of it, none can be mounted.
        argv += ["--ro-bind", str(_CONFINED), "/confined.py", "--dev", "/dev"]
        return [*argv, "--size", str(self.limits.file), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]  # noqa: S108 - the sandbox's own


def in_container() -> bool:
    """Whether this process runs in a container of Docker, Podman or Kubernetes."""
    return any(Path(mark).exists() for mark in _CONTAINER_MARKS)


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
