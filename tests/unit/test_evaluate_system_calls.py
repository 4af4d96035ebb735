"""The filter of the sandbox, run here as the kernel would run it, for both architectures: what is not in the list is refused."""

from __future__ import annotations

import platform

import pytest

from containers.evaluate.confined import system_calls
from containers.evaluate.confined.system_calls import ALLOW, ARCHITECTURES, KILL, NOT_PERMITTED, rules

MACHINES = sorted(ARCHITECTURES)
CHILD = 4711

# Numbers of unistd.h for x86_64 and aarch64, by hand; None where the architecture does not have the call.
ATTACKS = [
    ("clone", 56, 220), ("clone3", 435, 435), ("fork", 57, None), ("vfork", 58, None), ("execve", 59, 221),
    ("execveat", 322, 281), ("kill", 62, 129), ("tkill", 200, 130), ("tgkill", 234, 131), ("rt_sigqueueinfo", 129, 138),
    ("rt_tgsigqueueinfo", 297, 240), ("pidfd_open", 434, 434), ("pidfd_send_signal", 424, 424), ("pidfd_getfd", 438, 438),
    ("ptrace", 101, 117), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("process_madvise", 440, 440),
    ("kcmp", 312, 272), ("socket", 41, 198), ("socketpair", 53, 199), ("connect", 42, 203), ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426), ("io_uring_register", 427, 427), ("io_setup", 206, 0), ("add_key", 248, 217),
    ("request_key", 249, 218), ("keyctl", 250, 219), ("bpf", 321, 280), ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282), ("unshare", 272, 97), ("setns", 308, 268), ("mount", 165, 40), ("umount2", 166, 39),
    ("pivot_root", 155, 41), ("chroot", 161, 51), ("fsopen", 430, 430), ("open_tree", 428, 428), ("move_mount", 429, 429),
    ("mount_setattr", 442, 442), ("memfd_create", 319, 279), ("memfd_secret", 447, 447), ("shmget", 29, 194),
    ("msgget", 68, 186), ("semget", 64, 190), ("mq_open", 240, 180), ("pipe2", 293, 59), ("splice", 275, 76),
    ("vmsplice", 316, 75), ("mkdirat", 258, 34), ("unlinkat", 263, 35), ("renameat2", 316, 276), ("symlinkat", 266, 36),
    ("linkat", 265, 37), ("mknodat", 259, 33), ("fchmodat", 268, 53), ("fchownat", 260, 54), ("truncate", 76, 45),
    ("ftruncate", 77, 46), ("fallocate", 285, 47), ("setxattr", 188, 5), ("utimensat", 280, 88), ("chdir", 80, 49),
    ("openat2", 437, 437), ("open_by_handle_at", 304, 265), ("inotify_init1", 294, 26), ("fanotify_init", 300, 262),
    ("setuid", 105, 146), ("setgroups", 116, 159), ("capset", 126, 91), ("prctl", 157, 167), ("seccomp", 317, 277),
    ("setsid", 112, 157), ("setpgid", 109, 154), ("setpriority", 141, 140), ("sched_setaffinity", 203, 122),
    ("sched_setscheduler", 144, 119), ("ioprio_set", 251, 30), ("personality", 135, 92), ("syslog", 103, 116),
    ("reboot", 169, 142), ("kexec_load", 246, 104), ("init_module", 175, 105), ("swapon", 167, 224), ("quotactl", 179, 60),
    ("acct", 163, 89), ("timer_create", 222, 107), ("timerfd_create", 283, 85), ("eventfd2", 290, 19),
    ("signalfd4", 289, 74), ("mlock", 149, 228), ("mbind", 237, 235), ("move_pages", 279, 239), ("landlock_create", 444, 444),
    ("modify_ldt", 154, None), ("iopl", 172, None), ("a later one", 500, 500), ("the last one", 0xFFFFFFFF, 0xFFFFFFFF),
]  # fmt: skip


def decision(program: list[system_calls.Rule], architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the program returns for a call: classic BPF over struct seccomp_data, as far as the filter uses it."""
    words = [number, architecture, 0, 0]
    for one in (*arguments, *(0,) * 6)[:6]:
        words += [one & 0xFFFFFFFF, (one >> 32) & 0xFFFFFFFF]
    at = held = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            held = words[constant // 4]
        elif code == 0x15:
            at += if_true if held == constant else if_false
        else:
            assert code == 0x06
            return constant


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0])
def test_what_reaches_out_is_not_permitted(machine: str, attack: tuple[str, int, int | None]) -> None:
    architecture, column = ARCHITECTURES[machine]
    number = attack[1 + column]
    if number is not None:
        for program in (rules(machine), rules(machine, CHILD)):
            assert decision(program, architecture, number) == NOT_PERMITTED
            if machine == "x86_64":
                assert decision(program, architecture, 0x40000000 | number) == NOT_PERMITTED  # the same call under x32


@pytest.mark.parametrize(
    ("name", "numbers", "place", "good", "bad"),
    [
        ("fcntl", (72, 25), 1, (0, 1, 2, 3, 4, 1030), (5, 6, 8, 10, 15, 1024, 1031, 1033, 1 << 31)),
        ("ioctl", (16, 29), 1, (0x5401, 0x5450, 0x5451), (0x5412, 0x541C, 0x5452, 0x8901, 0x8902)),
        ("prlimit64", (302, 261), 0, (0,), (1, CHILD, 0xFFFFFFFF)),
    ],
)
@pytest.mark.parametrize("machine", MACHINES)
def test_some_calls_may_only_do_some_things(machine, name, numbers, place, good, bad) -> None:
    architecture, column = ARCHITECTURES[machine]
    for values, expected in ((good, ALLOW), (bad, NOT_PERMITTED)):
        for value in values:
            arguments = (7,) * place + (value,)
            assert decision(rules(machine), architecture, numbers[column], arguments) == expected, (name, value)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_judge_may_end_its_child_and_nobody_else(machine: str) -> None:
    architecture, column = ARCHITECTURES[machine]
    kill, program = (62, 129)[column], rules(machine, CHILD)
    assert decision(program, architecture, kill, (CHILD, 9)) == ALLOW
    for other in (0, 1, -1, -CHILD, CHILD + 1):
        assert decision(program, architecture, kill, (other, 9)) == NOT_PERMITTED


@pytest.mark.parametrize("machine", MACHINES)
def test_computing_is_allowed_and_another_architecture_ends_the_process(machine: str) -> None:
    architecture, column = ARCHITECTURES[machine]
    for numbers in ((0, 63), (1, 64), (9, 222), (11, 215), (231, 94), (257, 56), (318, 278)):
        assert decision(rules(machine), architecture, numbers[column]) == ALLOW
        for other in {0x40000003, 0x40000028, *(number for number, _ in ARCHITECTURES.values())} - {architecture}:
            assert decision(rules(machine), other, numbers[column]) == KILL


def test_an_unknown_machine_gets_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no list of system calls for riscv64"):
        system_calls.allow_only()
