"""Descriptions of deployments for the tests of the targets: the demo on a CPU, the same with vLLM's parsers, and a 70B on eight GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from containers.oci.reference import Reference
from flows.targets import TARGETS
from flows.targets.description import DeploymentRequest, build
from flows.targets.model import of_folder
from flows.targets.target import ModelSource, TargetOptions

if TYPE_CHECKING:
    from flows.targets.description import Deployment

GOLDEN = Path(__file__).parents[1] / "golden" / "targets"
DEMO = "registry.example.com/models/modelcar-smollm2-135m-fp8"
LARGE = "registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic"


def demo_deployment(digit: str = "4", image: str = "") -> Deployment:
    """SmolLM2-135M in FP8 on a CPU; the digest is `digit`, 64 times."""
    reference = Reference.parse(f"{DEMO}@sha256:{digit * 64}")
    return build(of_folder(GOLDEN / "demo"), reference, DeploymentRequest(gpu="cpu", max_model_len=2048, image=image))


def parsers_deployment() -> Deployment:
    """A model of an architecture whose tool calls are known, with a reasoning parser that a person named."""
    reference = Reference.parse(f"{DEMO}@sha256:{'5' * 64}")
    wanted = DeploymentRequest(gpu="cpu", max_model_len=2048, reasoning_parser="qwen3")
    return build(of_folder(GOLDEN / "parsers"), reference, wanted)


def large_deployment() -> Deployment:
    """The reference card's model, with its eight GPUs and its length."""
    reference = Reference.parse(f"{LARGE}@sha256:{'7' * 64}")
    wanted = DeploymentRequest(gpu="H100", max_model_len=32768, tensor_parallel_size=8)
    return build(of_folder(GOLDEN / "llama-3.3-70b"), reference, wanted)


def render(target: str, deployment: Deployment, options: TargetOptions | None = None) -> dict[str, str]:
    """The files of a target, by name; of no registry anything is asked. RHEL AI is given the large model's raw artifact."""
    raw = ModelSource(f"{LARGE.replace('modelcar-', '')}:1.5@sha256:{'8' * 64}", settings=None)
    return {file.name: file.text for file in TARGETS[target].render(deployment, raw, options or TargetOptions()).files}


def rendered() -> dict[str, str]:
    """Every file of every target for each, by its path under tests/golden/targets."""
    options = TargetOptions(namespace="models")
    deployments = {"demo": demo_deployment(), "llama-3.3-70b": large_deployment(), "parsers": parsers_deployment()}
    return {
        f"{folder}/{name}": text
        for folder, deployment in deployments.items()
        for target in TARGETS
        for name, text in render(target, deployment, options).items()
    }
