"""Which services `carwright clean` stops, and which ages it takes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, get_args

import pytest

from containers.errors import BadInput
from containers.settings import StoreSettings
from flows.cli.housekeeping import age, services
from flows.runners.backends import BACKENDS
from flows.runners.kubernetes.kept import forget, places, remember
from flows.runners.process.services import ProcessServices
from flows.runners.remote.services import PlacedServices
from infra.settings import KubernetesSettings, PlacementSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_every_launcher_of_the_settings_is_a_backend() -> None:
    assert get_args(Settings.model_fields["launcher"].annotation) == tuple(BACKENDS)


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


def test_a_service_that_was_kept_on_a_cluster_is_remembered(tmp_path: Path) -> None:
    """With the place, which the settings no longer name."""
    settings = Settings().model_copy(update={"home": tmp_path, "launcher": "process"})
    place = KubernetesSettings(kubeconfig=tmp_path / "config", context="prod", namespace="models")
    for _ in range(2):
        remember(settings, place)
    assert [type(one).__name__ for one in services(settings)] == ["ProcessServices", "KubernetesServices"]
    assert places(settings) == [place]
    forget(settings)
    assert [type(one).__name__ for one in services(settings)] == ["ProcessServices"]


@pytest.mark.parametrize(("text", "hours"), [("36h", 36), ("14d", 336), ("0h", 0)])
def test_ages(text: str, hours: int) -> None:
    """Hours and days."""
    assert age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "14", "d", "-1d", "1.5d", "2w"])
def test_what_is_no_age(text: str) -> None:
    """Refused before anything is stopped or removed."""
    with pytest.raises(BadInput, match="is not an age"):
        age(text)


def test_an_age_that_would_take_what_runs_are_making() -> None:
    with pytest.raises(BadInput, match="23h is too short") as caught:
        age("23h", least=timedelta(days=1))
    assert "at least 24h" in caught.value.remedy
    assert age("24h", least=timedelta(days=1)) == timedelta(days=1)
