"""The command lines that the readers of a modelcar run in it, with what a cluster makes of `$$$$` and `$$(`.

KServe: pkg/utils/storage.go, before that pkg/webhook/admission/pod/storage_initializer_injector.go (the first version with
`ln -s`). Kubeflow Pipelines: backend/src/v2/driver.
"""

from __future__ import annotations

from typing import Final

LINKS: Final = (
    "ln -s /proc/$$/root/models /mnt/models && sleep infinity",
    "ln -sf /proc/$$/root/models /mnt/models && sleep infinity",
)
_OK: Final = "OK ... Prefetched and valid (/models exists)"
_BAD: Final = "NOK ... Prefetched but modelcar is invalid (/models does not exist or is empty)"
_IMAGE: Final = f"registry.example.com:5000/models/modelcar-name@sha256:{'0' * 64}"
_LOOKS: Final = f"echo 'Pre-fetching modelcar {_IMAGE}: ' && [ -d /models ] && [ \"$(ls -A /models)\" ] && "
KSERVE_LOOKS: Final = (
    f"{_LOOKS}echo '{_OK}' || (echo '{_BAD}' && exit 1)",
    f"{_LOOKS}echo '{_OK}' || (echo '{_BAD}' &&  exit 1)",  # Kubeflow Pipelines
)
KUBEFLOW_WAITS: Final = (
    'ln -s /proc/$$/root/models "/oci/link" && echo "Running Modelcar container..." && '
    'until [ -f "/oci/launcher-complete" ]; do sleep 1; done'
)
