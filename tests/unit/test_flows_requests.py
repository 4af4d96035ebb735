"""What a measurement is named by."""

from __future__ import annotations

import pytest

from containers.fingerprints import locked_vllm
from flows.requests import inference_server
from infra.settings import DockerSettings, FlowServeSettings, KubernetesSettings, PlacementSettings, Settings

IMAGES = "registry.example.com/carwright/{target}:0.23.0"


@pytest.mark.parametrize(
    ("settings", "server"),
    [
        (Settings(), locked_vllm()),
        (Settings(launcher="docker", resources={"quantize": {"gpus": 1}}), locked_vllm()),
        (Settings(resources={"serve": {"gpus": 1}}), locked_vllm()),  # the launcher is not docker
        (
            Settings(launcher="docker", resources={"serve": {"gpus": -1}}, docker=DockerSettings(image=IMAGES)),
            "vllm of registry.example.com/carwright/serve:0.23.0",
        ),
        (
            Settings(
                launcher="kubernetes", resources={"all": {"gpus": 1}}, kubernetes=KubernetesSettings(image=IMAGES)
            ),
            "vllm of registry.example.com/carwright/serve:0.23.0",
        ),
        (Settings(placement=PlacementSettings(serve="run-step/gpu")), "vllm by run-step/gpu"),
        (Settings(serve=FlowServeSettings(engine="vllm 0.23.0")), "vllm 0.23.0"),
    ],
)
def test_a_gpus_measurements_are_not_a_cpus(settings: Settings, server: str) -> None:
    assert inference_server(settings) == server
