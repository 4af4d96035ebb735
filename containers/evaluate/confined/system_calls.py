"""An allow-list of system calls: what computing takes, and nothing that reaches out of the process (seccomp(2), filter mode).

Whatever is not in the list fails with EPERM, also calls that later kernels add: processes and threads, signals, sockets,
memory files and shared memory, namespaces, mounts, keyrings, io_uring, bpf, ptrace and the memory of other processes,
changes of files. A call of another architecture ends the process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Rule = tuple[int, int, int, int]

_SET_SECCOMP: Final = 22
_SET_NO_NEW_PRIVILEGES: Final = 38
_FILTER: Final = 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
ALLOW, NOT_PERMITTED, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # the second is SECCOMP_RET_ERRNO | EPERM
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data

# The architecture's number for the audit subsystem, and its column in the tables.
ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Numbers on x86_64 and aarch64 (unistd.h), where the architecture has the call.
_CALLS: Final[Mapping[str, tuple[int, int | None]]] = {
    # Open files. What may be opened is up to the file system and Landlock.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "lseek": (8, 62),
    "open": (2, None), "openat": (257, 56), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "getdents64": (217, 61), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72),
    # Looking at files.
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "getcwd": (79, 17),
    # Its own memory, which RLIMIT_AS limits.
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233),
    # Its own signal handlers and locks.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "restart_syscall": (219, 128), "sched_yield": (24, 124),
    # The time, randomness, and who it is.
    "time": (201, None), "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "times": (100, 153), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165),
    "getrlimit": (97, 163), "sched_getaffinity": (204, 123),
    # The end.
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# By name: numbers, the argument that is looked at, and the values that it may have. Others of fcntl's commands have the
# kernel send a signal to whatever process is named (F_SETOWN, F_SETSIG); so do ioctl's.
_ARGUMENTS: Final[Mapping[str, tuple[tuple[int, int], int, tuple[int, ...]]]] = {
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "ioctl": ((16, 29), 1, (0x5401, 0x5450, 0x5451)),  # TCGETS (isatty), FIONCLEX, FIOCLEX
    "prlimit64": ((302, 261), 0, (0,)),  # of this process
}
# For a process that has a child: end this one, and collect it.
_KILL: Final = (62, 129)
_WAIT: Final = (61, 260)


def rules(machine: str, child: int | None = None) -> list[Rule]:
    """The filter's program (struct sock_filter: code, jt, jf, k). `child` is a process that may be ended and waited for."""
    architecture, column = ARCHITECTURES[machine]
    program: list[Rule] = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, KILL)]
    program.append((_LOAD, 0, 0, _NUMBER_AT))
    plain = [numbers[column] for numbers in _CALLS.values()]
    looked_at = [(numbers[column], place, values) for numbers, place, values in _ARGUMENTS.values()]
    if child is not None:
        plain.append(_WAIT[column])
        looked_at.append((_KILL[column], 0, (child,)))
    for number in plain:
        if number is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, ALLOW)]
    for number, place, values in looked_at:
        # Commands and process ids are 32 bits: the kernel looks at the lower half, which comes first on both architectures.
        checked = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * place)]
        for value in values:
            checked += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, ALLOW)]
        checked.append((_RETURN, 0, 0, NOT_PERMITTED))
        program += [(_EQUAL, 0, len(checked), number), *checked]
    return [*program, (_RETURN, 0, 0, NOT_PERMITTED)]


def allow_only(child: int | None = None) -> None:
    """Put the filter on this process, for good. Raises OSError where the system has no such filters."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"there is no list of system calls for {machine}")
    program = rules(machine, child)
    code = b"".join(struct.pack("=HBBI", *rule) for rule in program)
    text = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(program), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), f"cannot forbid system calls: {os.strerror(ctypes.get_errno())}")
