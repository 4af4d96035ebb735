"""Descriptions of deployments for the tests of the targets: the demo on a CPU, and a 70B on eight GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from containers.oci.reference import Reference
from flows.targets import compose, docker, kserve, podman, rhel_ai
from flows.targets.description import DeploymentRequest, build
from flows.targets.model import of_folder

if TYPE_CHECKING:
    from flows.targets.description import Deployment

GOLDEN = Path(__file__).parents[1] / "golden" / "targets"
DEMO = "registry.example.com/models/modelcar-smollm2-135m-fp8"
LARGE = "registry.example.com/models/modelcar-llama-3-3-70b-instruct-fp8-dynamic"


def demo_deployment(digit: str = "4", image: str = "") -> Deployment:
    """SmolLM2-135M in FP8 on a CPU; the digest is `digit`, 64 times."""
    reference = Reference.parse(f"{DEMO}@sha256:{digit * 64}")
    return build(of_folder(GOLDEN / "demo"), reference, DeploymentRequest(gpu="cpu", max_model_len=2048, image=image))


def large_deployment() -> Deployment:
    """The reference card's model, with its eight GPUs and its length."""
    reference = Reference.parse(f"{LARGE}@sha256:{'7' * 64}")
    wanted = DeploymentRequest(gpu="H100", max_model_len=32768, tensor_parallel_size=8)
    return build(of_folder(GOLDEN / "llama-3.3-70b"), reference, wanted)


def rendered() -> dict[str, str]:
    """Every file of every target for both, by its path under tests/golden/targets."""
    release = rhel_ai.RawRelease(repository=LARGE.replace("modelcar-", ""), tag="1.5", digest="sha256:" + "8" * 64)
    found: dict[str, str] = {}
    for folder, deployment in (("demo", demo_deployment()), ("llama-3.3-70b", large_deployment())):
        modes = [kserve.render(deployment, mode, "models") for mode in ("oci", "oci+native", "oci+fetch")]
        for number, one in enumerate(modes[1:], 1):
            assert one.files[0].text.replace(("oci+native", "oci+fetch")[number - 1], "oci") == modes[0].files[0].text
        every = [docker.render(deployment), podman.render(deployment), compose.render(deployment), modes[0]]
        every += [kserve.render_pod(deployment), rhel_ai.render(deployment, release)]
        found |= {f"{folder}/{file.name}": file.text for one in every for file in one.files}
    return found
