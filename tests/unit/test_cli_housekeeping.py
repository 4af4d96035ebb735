"""Which services `carwright clean` stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.settings import StoreSettings
from flows.cli.housekeeping import services
from flows.runners.process.services import ProcessServices
from flows.runners.remote.services import PlacedServices
from infra.settings import PlacementSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("launcher", "names"),
    [
        ("process", ["ProcessServices"]),
        ("docker", ["ProcessServices", "DockerServices"]),
        ("kubernetes", ["ProcessServices", "KubernetesServices"]),
    ],
)
def test_services_of_every_launcher(tmp_path: Path, launcher: str, names: list[str]) -> None:
    """Those of this machine always, and those that the launcher of the settings starts elsewhere."""
    settings = Settings().model_copy(update={"home": tmp_path, "launcher": launcher})
    assert [type(one).__name__ for one in services(settings)] == names


def test_services_that_were_placed_elsewhere(tmp_path: Path) -> None:
    """Those of the setting placement.serve, too; not with the embedded store, which no other machine reaches."""
    placed = PlacementSettings(serve="run-step/gpu")
    settings = Settings(home=tmp_path, placement=placed, store=StoreSettings(endpoint="http://127.0.0.1:9"))
    (found,) = services(settings)
    assert isinstance(found, PlacedServices)
    assert isinstance(found.here, ProcessServices)
    (found,) = services(settings.model_copy(update={"store": StoreSettings()}))
    assert isinstance(found, ProcessServices)


def test_a_run_with_the_docker_profile_is_remembered(tmp_path: Path) -> None:
    """It left a mark in the folder, whatever the settings say now."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "docker").touch()
    settings = Settings().model_copy(update={"home": tmp_path, "launcher": "process"})
    assert [type(one).__name__ for one in services(settings)] == ["ProcessServices", "DockerServices"]
