"""Runs inside the sandbox: sets limits, runs a program from standard input, and prints a token if it ended without error.

Standard input is JSON: `program`, `token`, the limits `cpu` (seconds), `memory` and `file` (bytes), and, where no
namespaces hide the machine, `readable`: the only folders that the program may read. It may write to none. The token is
printed only after the program has ended without an exception, so that neither `exit(0)`
nor a program that kills itself looks like a success. Imports nothing but the standard library.
"""

import contextlib
import ctypes
import json
import os
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

# What namespaces would keep within bounds: socket, socketpair, kill, tkill, tgkill, ptrace, process_vm_readv and writev,
# unshare, setns, mount, bpf, perf_event_open, keyctl, add_key, request_key, shmget, msgget, semget, userfaultfd, prlimit64.
# Then what Landlock does not see: the chmod, chown and utime families, setxattr and removexattr, truncate. The last row has
# one number everywhere: pidfd_open, pidfd_send_signal, pidfd_getfd, io_uring_setup, fchmodat2.
_REACHING_OUT = {
    "x86_64": (
        *(41, 53, 62, 200, 234, 101, 310, 311, 272, 308, 165, 321, 298, 250, 248, 249, 29, 68, 64, 323, 302),
        *(90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 76),
        *(434, 424, 438, 425, 452),
    ),
    "aarch64": (
        *(198, 199, 129, 130, 131, 117, 270, 271, 97, 268, 40, 280, 241, 219, 217, 218, 194, 186, 190, 282, 261),
        *(52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16, 45),
        *(434, 424, 438, 425, 452),
    ),
}

# landlock(7): the calls have one number on every architecture. The access rights of its first version, 13 bits, are all
# handled; later ones (truncate, ioctl of devices, network) only matter for files that can be opened and for sockets.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EVERY_RIGHT = (1 << 13) - 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_PATH_BENEATH = 1


def forbid(calls: tuple[int, ...]) -> None:
    """Make these system calls fail with EPERM permanently (seccomp(2), filter mode). Raises OSError.

    RLIMIT_NPROC is no alternative for calls that create processes: it does not apply to root, which may run this.
    """
    architecture = _CALLS[platform.machine()][0]
    rules = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    rules.append((_AT_LEAST, len(calls) + 2, 0, _X32))
    rules += [(_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    rules += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOT_PERMITTED), (_RETURN, 0, 0, _KILL)]
    code = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(rules), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot forbid system calls")


def read_only(folders: list[str]) -> None:
    """Permanently restrict this process to reading files below `folders`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.create_string_buffer(struct.pack("=Q", _EVERY_RIGHT), 8)
    rules = libc.syscall(_LANDLOCK_CREATE, handled, 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the system has no Landlock, or does not let it be used")
    for folder in folders:
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", _EXECUTE | _READ_FILE | _READ_DIR, place), 12)
        if libc.syscall(_LANDLOCK_ADD, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"cannot allow {folder}")
        os.close(place)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_LANDLOCK_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "cannot close the other files")
    os.close(rules)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    program, token, readable = order.pop("program"), order.pop("token"), order.pop("readable", None)
    kinds = {"cpu": resource.RLIMIT_CPU, "memory": resource.RLIMIT_AS, "file": resource.RLIMIT_FSIZE}
    for name, limit in order.items():
        resource.setrlimit(kinds[name], (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    calls = _CALLS[platform.machine()][1]
    if readable is not None:
        with contextlib.suppress(OSError):
            os.closerange(3, 65536)  # whatever the parent left open
        read_only(readable)
        calls += _REACHING_OUT[platform.machine()]
    forbid(calls)
    answer = sys.stdout
    sys.stdout = sys.stderr  # what the program prints is not the answer
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102 - this is what the sandbox is for
    answer.write(token)
    answer.flush()


if __name__ == "__main__":
    main()
