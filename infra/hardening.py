"""What a container of ours may not do, whoever starts it: the one rule, in the words of those who read it.

No capabilities, no way to get any (no-new-privileges), no root, a bound on processes, and where we know what a program
writes, a root file system that is read only. infra/compose.yaml, infra/compose.gpu.yaml and infra/kubernetes say the same
in their own files; tests/unit/test_hardening.py holds every one of them against this.
"""

from __future__ import annotations

from typing import Any, Final

# Of our images and modelcars: who reads /proc/<pid>/root of a modelcar must be its user (ptrace(2), access mode check).
USER: Final = 1001
DROPPED: Final = ("ALL",)
NO_NEW_PRIVILEGES: Final = "no-new-privileges"

# Processes and threads: a bound for what runs wild, far above what anything of ours needs. Torch and vLLM start threads for
# every core, and a process for every GPU; a modelcar runs a shell and `sleep`.
PIDS: Final = 4096
PIDS_WITH_GPUS: Final = 32768
PIDS_OF_A_MODELCAR: Final = 64


def pids(gpus: int | None) -> int:
    return PIDS_WITH_GPUS if gpus else PIDS


def of_pod_container(*, read_only: bool = True) -> dict[str, Any]:
    """The securityContext of a container in a pod; how many processes it may start is the kubelet's to say (podPidsLimit)."""
    return {
        "allowPrivilegeEscalation": False,
        **({"readOnlyRootFilesystem": True} if read_only else {}),
        "capabilities": {"drop": list(DROPPED)},
    }
