"""Which services `carwright clean` stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from flows.cli.housekeeping import services
from flows.runners.backends import BACKENDS
from infra.settings import Settings

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


def test_a_run_with_the_docker_profile_is_remembered(tmp_path: Path) -> None:
    """It left a mark in the folder, whatever the settings say now."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "docker").touch()
    settings = Settings().model_copy(update={"home": tmp_path, "launcher": "process"})
    assert [type(one).__name__ for one in services(settings)] == ["ProcessServices", "DockerServices"]
