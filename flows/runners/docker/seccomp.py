"""The system calls of a step that runs generated code in bubblewrap (containers/evaluate/sandbox.py).

Docker's default profile forbids the calls that make user namespaces (clone, unshare, mount, pivot_root), for that is how
a kernel's faults are reached; and a sandbox is made of just these. So this profile, of that one step, forbids what the
default one forbids a container without capabilities (docs.docker.com/engine/security/seccomp) except these calls. The
program within the sandbox has a filter of its own, which forbids it to make any process or namespace.
"""

from __future__ import annotations

import json
from typing import Final

_FORBIDDEN: Final = """
acct add_key bpf clock_adjtime clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount
fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
kexec_file_load kexec_load keyctl lookup_dcookie mbind mount_setattr move_mount move_pages name_to_handle_at nfsservctl
open_by_handle_at open_tree perf_event_open process_madvise process_vm_readv process_vm_writev ptrace query_module
quotactl quotactl_fd reboot request_key set_mempolicy setdomainname setns settimeofday stime swapoff swapon sysfs _sysctl
syslog umount uselib userfaultfd ustat vhangup vm86 vm86old
"""


def profile() -> str:
    """A seccomp profile in the engine's format: JSON. System calls of other architectures than the native one fail, too."""
    forbidden = {"names": _FORBIDDEN.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}  # EPERM
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [forbidden]})
