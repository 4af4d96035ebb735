"""Translates errors of the container engine into Carwright's errors."""

from __future__ import annotations

import re
from contextlib import contextmanager
from tarfile import TarError
from typing import TYPE_CHECKING, Final

from docker.errors import APIError, DockerException, NotFound

from containers.errors import BadInput, DiskFull, Error, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_GPUS: Final = "GPUs were requested, but the container engine has none"

# Messages of the container engine (moby, daemon/ and runconfig/) and what they mean; the first match decides.
_KNOWN: Final = (
    (
        re.compile(r"could not select device driver|nvidia-container|unresolvable CDI|/dev/kfd|/dev/dri"),
        _NO_GPUS,
        "install the GPU vendor's container toolkit on the engine's machine, or unset CARWRIGHT_RESOURCES__<STEP>__GPUS",
    ),
    (
        re.compile(r"network \S+ not found"),
        "the network of the containers does not exist",
        "create it with `docker network create NAME`, or set CARWRIGHT_DOCKER__NETWORK",
    ),
    (
        re.compile(r"bind source path does not exist|invalid mount config"),
        "the engine's machine does not have the folder that the step reads",
        "give the model as hf:// or s3://, or use the process launcher",
    ),
    (
        re.compile(r"port is already allocated|address already in use"),
        "the port is in use by another program",
        "choose another (--port, or CARWRIGHT_SERVE__PORT); 0 takes a free port",
    ),
    (
        re.compile(r"manifest unknown|not found|access denied|unauthorized|repository does not exist", re.IGNORECASE),
        "the image does not exist, or access is denied",
        "build the images with `carwright images load`, or set CARWRIGHT_DOCKER__IMAGE; log in to a private registry",
    ),
)


def refusal(text: str, what: str, status: int = 0) -> Error:
    """What the engine's words mean; `status` is that of its answer."""
    if "no space left" in text:
        return DiskFull(
            f"no space is left on the engine's machine to {what}", remedy="free some space there", doctor=""
        )
    for pattern, meaning, remedy in _KNOWN:
        if pattern.search(text):
            doctor = "engine-gpu" if meaning == _NO_GPUS else ""
            return BadInput(f"cannot {what}: {meaning} ({text.strip()})", remedy=remedy, doctor=doctor)
    if status >= 500:  # the engine's own trouble, which may pass
        return Temporary(
            f"the container engine failed to {what}: {text.strip()}",
            remedy="look at the engine's log, and run the command again: it continues",
            doctor="engine",
        )
    return Error(f"the container engine refused to {what}: {text.strip()}")


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Translate what the SDK raises into Carwright's errors."""
    try:
        yield
    except NotFound as error:
        raise refusal(str(error.explanation or error), what) from error
    except APIError as error:
        status = error.status_code or 0
        gone = status in {502, 503, 504}
        raise _gone(what, error) if gone else refusal(str(error.explanation or error), what, status) from error
    except (DockerException, OSError, TarError) as error:
        raise _gone(what, error) from error


def _gone(what: str, error: Exception) -> Temporary:
    return Temporary(
        f"the container engine stopped answering (asked to {what}: {type(error).__name__})",
        remedy="start the engine and run the command again: it continues; `carwright sweep` removes leftover containers",
    )
