"""Runs inside the sandbox: set limits, run a program from standard input, say the word if it came to its end.

Standard input is JSON: `program`, `word`, and the limits `cpu` (seconds), `memory` and `file` (bytes). The word goes to
standard output only after the program has ended without an exception, so that neither `exit(0)` nor a program that kills
itself looks like a success. Imports nothing but the standard library.
"""

import ctypes
import json
import platform
import resource
import struct
import sys

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _NOT_PERMITTED, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # the second is SECCOMP_RET_ERRNO | EPERM
_X32 = 0x40000000  # numbers from here on are those of the x32 ABI, under other names the same calls

# Architecture's number for the audit subsystem, and its numbers of clone, fork, vfork and clone3 (unistd.h).
_CALLS = {"x86_64": (0xC000003E, (56, 57, 58, 435)), "aarch64": (0xC00000B7, (220, 435))}


def forbid_processes() -> None:
    """Let every call that makes a process or a thread fail with EPERM, for good (seccomp(2), filter mode).

    RLIMIT_NPROC would not do: it does not bind root, and whoever runs this may be root outside. Raises OSError.
    """
    architecture, calls = _CALLS[platform.machine()]
    rules = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    rules.append((_AT_LEAST, len(calls) + 2, 0, _X32))
    rules += [(_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    rules += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOT_PERMITTED), (_RETURN, 0, 0, _KILL)]
    code = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(rules), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot forbid new processes")


def main() -> None:
    told = json.loads(sys.stdin.readline())
    program, word = told.pop("program"), told.pop("word")
    kinds = {"cpu": resource.RLIMIT_CPU, "memory": resource.RLIMIT_AS, "file": resource.RLIMIT_FSIZE}
    for name, limit in told.items():
        resource.setrlimit(kinds[name], (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    forbid_processes()
    answer = sys.stdout
    sys.stdout = sys.stderr  # what the program prints is not the answer
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102 - this is what the sandbox is for
    answer.write(word)
    answer.flush()


if __name__ == "__main__":
    main()
