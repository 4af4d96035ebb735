"""Descriptions of deployments for the tests of the targets: the demo on a CPU, and a 70B on eight GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from containers.oci.reference import Reference
from flows.targets.description import Wanted, build
from flows.targets.model import of_folder

if TYPE_CHECKING:
    from flows.targets.description import Deployment

GOLDEN = Path(__file__).parent / "golden" / "targets"
DEMO = "registry.example.com/models/modelcar-smollm2-135m-fp8"
LARGE = "registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic"


def demo_deployment(digit: str = "4", image: str = "") -> Deployment:
    """SmolLM2-135M in FP8 on a CPU; the digest is `digit`, 64 times."""
    reference = Reference.parse(f"{DEMO}@sha256:{digit * 64}")
    return build(of_folder(GOLDEN / "demo"), reference, Wanted(gpu="cpu", max_model_len=2048, image=image))


def large_deployment() -> Deployment:
    """The reference card's model, with its eight GPUs and its length."""
    reference = Reference.parse(f"{LARGE}@sha256:{'7' * 64}")
    wanted = Wanted(gpu="H100", max_model_len=32768, tensor_parallel_size=8)
    return build(of_folder(GOLDEN / "llama-3.3-70b"), reference, wanted)
