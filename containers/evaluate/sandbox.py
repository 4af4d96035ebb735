"""Run Python that a model wrote, and believe nothing of it.

The program gets a file system of its own (this Python and the system's libraries, read only; an empty /tmp in memory),
its own user, process, network and IPC namespaces through bubblewrap, no capability, no variable of this environment, no
way to start a process or a thread, and limits of processor time, memory, file size and wall time. Without bubblewrap
nothing is run.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from containers.contract import Frozen
from containers.errors import BadInput
from containers.process import ProcessFailed, TimedOut, run

_CONFINED: Final = Path(__file__).with_name("_confined.py")
_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/bin")
_TOLD: Final = 400  # characters of what went wrong that are kept


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
    """A bubblewrap that works on this machine; make it with `find`."""

    bwrap: str
    limits: Limits

    @classmethod
    def find(cls, limits: Limits | None = None) -> Sandbox:
        """Raises BadInput when there is no bubblewrap, or when it cannot make the namespaces here."""
        remedy = "install bubblewrap and allow user namespaces; code that a model wrote is not run without a sandbox"
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise BadInput("there is no bubblewrap (bwrap) here to run generated code in", remedy=remedy)
        sandbox = cls(bwrap, limits or Limits())
        outcome = sandbox.run("pass")
        if not outcome.passed:
            raise BadInput(f"bubblewrap does not work here: {outcome.detail}", remedy=remedy)
        return sandbox

    def run(self, program: str) -> Outcome:
        """Whether the program ran to its end without an exception, within the limits."""
        word = secrets.token_hex(16)
        told = {"program": program, "word": word, **self.limits.model_dump(exclude={"wall"})}
        try:
            done = run(self._argv(), env={}, timeout=self.limits.wall, check=False, stdin=json.dumps(told) + "\n")
        except TimedOut:
            return Outcome(passed=False, detail=f"did not end within {self.limits.wall:g} s")
        except ProcessFailed as error:
            return Outcome(passed=False, detail=str(error)[-_TOLD:])
        if done.stdout == word:
            return Outcome(passed=True, detail="")
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.code}"]
        return Outcome(passed=False, detail=last[0][-_TOLD:])

    def _argv(self) -> list[str]:
        argv = [self.bwrap, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
        argv += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
        for path in _SYSTEM:
            if Path(path).is_symlink():
                argv += ["--symlink", str(Path(path).readlink()), path]
            elif Path(path).is_dir():
                argv += ["--ro-bind", path, path]
        prefix = Path(sys.base_prefix).resolve()
        if not prefix.is_relative_to("/usr"):
            argv += ["--ro-bind", str(prefix), str(prefix)]
        argv += ["--ro-bind", str(_CONFINED), "/confined.py", "--proc", "/proc", "--dev", "/dev"]
        argv += ["--size", str(self.limits.file), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]  # noqa: S108 - the sandbox's own
        return [*argv, str(Path(sys.executable).resolve()), "-I", "-S", "-B", "/confined.py"]
