"""Chooses what builds the images on this machine, and says what that promises.

`hermetic` is buildah without a network on a base of locked Debian packages (infra/images/image_builder.py). `docker` and `podman`
are the ordinary builders of an engine, with the network and from a public base (infra/images/engine_builder.py).
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.process import ProcessFailed, inherited, run

if TYPE_CHECKING:
    from collections.abc import Mapping

_HERMETIC: Final = ("buildah", "mmdebstrap", "apt-get", "dpkg-deb")
_TIMEOUT: Final = 60.0  # seconds
CLIENT: Final = (
    "DOCKER_",
    "BUILDKIT_",
    "CONTAINER",
    "STORAGE_",
    "REGISTRY_AUTH_FILE",
    "XDG_",
)  # configure the programs


class Builder(StrEnum):
    """What builds images; AUTO is the first of the others that this machine has."""

    AUTO = "auto"
    HERMETIC = "hermetic"
    DOCKER = "docker"
    PODMAN = "podman"


PROMISES: Final[Mapping[Builder, str]] = {
    Builder.HERMETIC: "buildah, without a network: everything is locked, and two builds are bit-identical",
    **{
        engine: f"{engine}, with the network: Python packages are locked, by hash. Not promised: bit-identical images (digests "
        "differ from build to build), and the locked versions of Debian packages (base and archive decide)"
        for engine in (Builder.DOCKER, Builder.PODMAN)
    },
}


def choose(asked: Builder = Builder.AUTO, *, base: str = "") -> Builder:
    """The builder to use; `base` is a base image by digest, which spares the hermetic build all but buildah.

    Raises BadInput when the one that is asked for is not here, or none is.
    """
    if asked is Builder.HERMETIC or (asked is Builder.AUTO and not lacking(base=base)):
        if absent := lacking(base=base):
            raise BadInput(
                f"the hermetic build needs {', '.join(absent)}",
                remedy="install buildah, mmdebstrap, apt and dpkg, or use another builder: --builder docker",
            )
        return Builder.HERMETIC
    wanted = (asked,) if asked is not Builder.AUTO else (Builder.DOCKER, Builder.PODMAN)
    reasons = {}
    for engine in wanted:
        if not (reason := _unusable(engine)):
            return engine
        reasons[engine] = reason
    raise BadInput(
        f"no builder of images can be used: {'; '.join(f'{engine}: {why}' for engine, why in reasons.items())}",
        remedy="start Docker (with its buildx) or install podman; for bit-identical images install buildah, mmdebstrap, apt and "
        "dpkg",
    )


def lacking(*, base: str = "") -> list[str]:
    """The programs of the hermetic build that are not installed."""
    return [program for program in (_HERMETIC[:1] if base else _HERMETIC) if shutil.which(program) is None]


def _unusable(engine: Builder) -> str:
    """Why this engine cannot build; "" if it can: its program is here, its engine answers, and Docker has BuildKit."""
    checks = [[engine.value, "info"]]
    if engine is Builder.DOCKER:
        checks.append(["docker", "build", "--help"])  # refuses when the part of Docker that has BuildKit is missing
    for argv in checks:
        try:
            run(argv, env={**inherited(*CLIENT), "DOCKER_BUILDKIT": "1"}, timeout=_TIMEOUT)
        except BadInput:
            return "not installed"
        except ProcessFailed as error:
            return (error.output.strip().splitlines() or ["its engine does not answer"])[0].strip()
    return ""
