"""Every error that Carwright raises on purpose, and the exit code that each one means.

| code | meaning                                                              | retried |
|------|----------------------------------------------------------------------|---------|
| 0    | done                                                                 |         |
| 1    | a bug in Carwright or in a library                                   | no      |
| 2    | bad input: the user can fix it                                       | no      |
| 3    | the gate refused the candidate; nothing was promoted                 | no      |
| 4    | the gate could not decide and the profile says stop                  | no      |
| 5    | the policy does not trust the model; nothing was served              | no      |
| 75   | temporary: the network, a full disk, a service that is not there     | yes     |
| 130  | interrupted (Ctrl-C or SIGTERM)                                      | no      |
| 128+ | a signal ended a step: 128 + its number, such as 137 for SIGKILL     | no      |

75 is EX_TEMPFAIL of sysexits.h; 130 is 128 + SIGINT, as shells report it.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

from containers.foreign_text import clean

if TYPE_CHECKING:
    from pydantic import ValidationError

_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_EXHAUSTED: Final = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
    errno.EAGAIN: "processes or threads",
}
# Errors without an error number: CPython's (Modules/_threadmodule.c), PyTorch's (c10/core/impl/alloc_cpu.cpp), and those of the
# dynamic linker (glibc's elf/dl-load.c), which says "failed to map ...: Operation not permitted" of a place without `exec`.
_WORDS: Final = (
    (re.compile(r"can't start new thread"), "processes or threads"),
    (re.compile(r"can't allocate memory"), "memory"),
    (re.compile(r"failed to map segment from shared object(: Cannot allocate memory)?$"), "memory"),
    (re.compile(r"cannot open shared object file: Too many open files"), "open files"),
)


class Error(Exception):
    """The root: a message that names the thing and what is wrong, and a remedy that says what to do.

    Both often quote what others wrote, so both pass through `clean`: no escape sequences, and no secrets of a URL.
    `doctor` names the line of `carwright doctor` that looks for the cause; the remedy then ends with it. `log` is the path or
    the page where more is said; whoever knows it sets it.
    """

    exit_code = 1
    temporary = False
    log = ""

    def __init__(self, message: str, *, remedy: str = "", doctor: str = "") -> None:
        pointer = f"(`carwright doctor`, line `{doctor}`)" if doctor else ""
        self.doctor = doctor
        self.message = clean(message)
        self.remedy = clean(" ".join(filter(None, (remedy, pointer))))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class BadInput(Error):
    """What was asked for cannot be done as asked; a retry would fail in the same way."""

    exit_code = 2


class GateRefused(Error):
    """The candidate was measured and did not pass."""

    exit_code = 3


class GateInconclusive(Error):
    """The samples neither prove nor disprove the margin, and the profile says stop."""

    exit_code = 4


class NotTrusted(Error):
    """A signature, a statement or the bytes are not what the policy demands."""

    exit_code = 5


class Temporary(Error):
    """The world was not ready; the same request may succeed later."""

    exit_code = 75
    temporary = True


class DiskFull(Temporary):
    """No space is left where bytes were being written (ENOSPC, EDQUOT, or the store's own word for it)."""

    def __init__(self, message: str, *, remedy: str = "", doctor: str = "disk") -> None:
        super().__init__(message, remedy=remedy, doctor=doctor)


class NotReady(Temporary):
    """A service did not answer its health check before the deadline."""


class Interrupted(Error):
    """The user or the system asked the run to stop."""

    exit_code = 130


class StepFailed(Error):
    """A step ended without a result; `exit_code` is the step's own."""

    def __init__(self, step: str, exit_code: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.step = step
        self.exit_code = exit_code
        self.temporary = exit_code == Temporary.exit_code


def is_disk_full(error: OSError) -> bool:
    """Whether the system refused to write for want of space or quota."""
    return error.errno in _DISK_FULL


def exhausted(error: BaseException) -> str:
    """What this machine, or a limit of it, has no more of: memory, open files, processes or threads; empty for any other error."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return _EXHAUSTED[error.errno]
    if isinstance(error, RuntimeError | ImportError):
        found = next((what for words, what in _WORDS if words.search(str(error))), "")
        # A library that loads its parts when they are used raises an error of its own from the linker's.
        return found or (exhausted(error.__cause__) if error.__cause__ else "")
    return ""


def faults(error: ValidationError) -> str:
    """What does not fit, in one line and without the values, which may be secrets: `store.port: Input should be ...`."""
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}" for fault in found)
