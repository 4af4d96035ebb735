r"""The base "minimal": one static program that does what KServe runs beside a model, and refuses the rest.

It is `sh.zig`, and its compiled form for each architecture lies beside it, pinned by its sha256. So a push needs no
distribution, no container engine and no network, and every host makes the same layer. `make shell` compiles it again, to
the same bytes (infra/modelcar_shell).

What KServe runs (pkg/utils/storage.go, in earlier versions storage_initializer_injector.go) are arguments of the image, so
there is no entry point:

    sh -c "ln -sf /proc/$$/root/models /mnt/models && sleep infinity"        (the first version: ln -s)
    sh -c "echo '...' && [ -d /models ] && [ \"$(ls -A /models)\" ] && echo '...' || (echo '...' && exit 1)"

Kubeflow Pipelines runs the second one and `ln -s ... && echo ... && until [ -f FILE ]; do sleep 1; done`; our own targets
`sleep infinity`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from containers.errors import BadInput
from containers.oci.base_tar import FILE, FOLDER, LINK, base_tar

SHELLS: Final = {  # OCI's name of an architecture -> sha256 of the program
    "amd64": "3de4f47e3a5c82f6cb3b059916759c065de8a27480f44070c0b0962a94ef088e",
    "arm64": "87fa7f5a4502b289c96514e750aa15c0ef6e83a4b54043bbaae007910f20d5f9",
}
SOURCE: Final = "fb7dd63499bad88c5e9c3e78168070b64e33a9044f8f60d8de89756a884e3fea"  # sha256 of the sh.zig that they were compiled from
LINKS: Final = ("ln", "ls", "sleep")  # other names of /bin/sh, by which it knows what it is to do
_HERE: Final = Path(__file__).parent


def path_of(architecture: str) -> Path:
    """Where the compiled program of an architecture lies."""
    return _HERE / f"sh-{architecture}"


def shell(architecture: str) -> bytes:
    """The compiled program. Raises BadInput for an architecture without one, and for bytes that are not the pinned ones."""
    pinned = SHELLS.get(architecture)
    if pinned is None:
        raise BadInput(
            f"there is no minimal base for {architecture}, only for {', '.join(SHELLS)}",
            remedy="use --base REFERENCE or --base none",
        )
    path = path_of(architecture)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", remedy="install Carwright again") from error
    if hashlib.sha256(content).hexdigest() != pinned:
        raise BadInput(
            f"{path} is not the program that modelcars are made with",
            remedy="install Carwright again; in a checkout, run `make shell`",
        )
    return content


def base_layer(architecture: str) -> bytes:
    """The base layer's tar: /bin/sh with its links, its licences, and /mnt, where KServe puts a link to the model."""
    return base_tar(
        [
            ("bin", FOLDER, 0o755, b""),
            ("bin/sh", FILE, 0o755, shell(architecture)),
            *((f"bin/{name}", LINK, 0o777, "sh") for name in LINKS),
            ("mnt", FOLDER, 0o1777, b""),
            ("usr", FOLDER, 0o755, b""),
            ("usr/share", FOLDER, 0o755, b""),
            ("usr/share/doc", FOLDER, 0o755, b""),
            ("usr/share/doc/carwright", FOLDER, 0o755, b""),
            ("usr/share/doc/carwright/NOTICE", FILE, 0o644, (_HERE / "NOTICE").read_bytes()),
        ]
    )
