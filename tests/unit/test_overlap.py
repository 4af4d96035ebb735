"""When layers are pushed ahead, and what is asked of which step for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from containers.contract import StoreLocation
from containers.parameters import PushParameters, QuantizeOptions, QuantizeParameters, ResolvedSource
from containers.settings import RegistrySettings
from containers.step_variables import step_variables
from flows.overlap import NO_LAYERS, pushing_layers
from flows.requests import Requests, fingerprint
from infra.settings import PlacementSettings, Settings

RECIPE = QuantizeParameters()
TARGET = PushParameters(target="registry.example.com/org/car")


def source(size: int = 10**10, files: int = 20) -> ResolvedSource:
    return ResolvedSource(source="hf://org/name", pinned=f"hf://org/name@{'0' * 40}", files=files, size=size)


@pytest.mark.parametrize(
    ("source", "placement"),
    [
        (source(size=10**9), ""),  # below overlap_gb
        (source(files=121), ""),  # shards share layers
        (source(), "run-step/elsewhere"),
    ],
)
def test_layers_are_not_always_pushed_ahead(source: ResolvedSource, placement: str) -> None:
    """Then no step is started: there is no Prefect here."""
    runtime: Any = SimpleNamespace(settings=Settings(placement=PlacementSettings(push=placement)))
    with pushing_layers(runtime, source, RECIPE, TARGET) as layers:
        assert layers == NO_LAYERS
        layers.finish()


def test_what_is_announced_changes_no_fingerprint_and_gives_quantize_no_login() -> None:
    settings = Settings(registry=RegistrySettings(username="robot"))
    requests = Requests("run", StoreLocation(), settings)
    quiet, announced = (requests.quantize_during_download(source(), RECIPE, announce=name) for name in ("", "f" * 64))
    assert fingerprint(quiet) == fingerprint(announced)
    assert QuantizeOptions.read(announced.options).announce == "f" * 64
    ahead = requests.push_layers(TARGET, "f" * 64)
    assert "CARWRIGHT_REGISTRY__USERNAME" in step_variables(settings, ahead)[0]
    assert "CARWRIGHT_REGISTRY__USERNAME" not in step_variables(settings, announced)[0]
