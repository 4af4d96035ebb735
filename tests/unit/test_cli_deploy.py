"""`carwright render` and `deploy`: which targets there are, and what is refused before anything is asked or started."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import typer.main
from typer.testing import CliRunner

import flows.targets
from containers.errors import BadInput
from flows.cli.main import app
from flows.targets import TARGETS
from flows.targets.target import TargetOptions
from tests.support.attacks import CONFIGURATION, entry, image, tar, tools

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = typer.main.get_command(app).commands
NOWHERE = f"registry.invalid/models/m@sha256:{'1' * 64}"


def carwright(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False, env={"COLUMNS": "300"}).output


def test_every_target_of_the_package_is_registered() -> None:
    """A module with a TARGET that `TARGETS` does not name could not be reached from the command line."""
    modules = [
        importlib.import_module(f"flows.targets.{one.name}") for one in pkgutil.iter_modules(flows.targets.__path__)
    ]
    assert {one.TARGET.name for one in modules if hasattr(one, "TARGET")} == TARGETS.keys()


def test_the_command_line_offers_them() -> None:
    """`deploy` those that can be deployed to from here; the help says what each one is."""
    deployed = [name for name, one in TARGETS.items() if one.deploy is not None]
    for command, names in (("render", [*TARGETS, "policy"]), ("deploy", deployed)):
        shown = carwright(command, "--help")
        assert f"<{'|'.join(names)}>" in shown
        assert all(f"{name}: {TARGETS[name].help}" in shown for name in names if name in TARGETS)
    assert {"docker", "podman", "kserve", "compose"} <= set(deployed)
    assert {"rhel-ai", "pod"} <= TARGETS.keys() - set(deployed)
    assert "'rhel-ai' is not one of 'docker', 'podman'" in carwright("deploy", "rhel-ai", NOWHERE)


def test_every_option_of_a_target_is_one_of_the_command_line() -> None:
    """And some target takes it."""
    known = {one.name for one in fields(TargetOptions)}
    assert known <= {parameter.name for parameter in COMMANDS["deploy"].params}
    assert set().union(*(one.options for one in TARGETS.values())) == known


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (["render", "docker", NOWHERE, "--namespace", "models"], "docker takes no --namespace"),
        (["render", "pod", NOWHERE, "--storage", "oci+fetch"], "pod takes no --storage"),
        (["deploy", "compose", NOWHERE, "--podman-option=--runtime=runc"], "compose takes no --podman-option"),
        (["deploy", "kserve", NOWHERE, "--podman-option=--runtime=runc"], "kserve takes no --podman-option"),
        (
            ["deploy", "podman", NOWHERE, "--gpu-patience", "9", "--url", "http://x"],
            "podman takes no --gpu-patience and no --url",
        ),
    ],
)
def test_an_option_of_another_target_is_refused(asked: list[str], refused: str) -> None:
    """It would do nothing, and who gave it wants it obeyed. No registry is asked: there is none of this name."""
    with pytest.raises(BadInput) as caught:
        carwright(*asked)
    assert caught.value.message == f"the target {refused}"


def test_kserve_takes_its_options() -> None:
    options = TargetOptions(storage="oci+native", namespace="models", gpu_patience=9, url="http://x")
    TARGETS["kserve"].check(options)
    TARGETS["podman"].check(TargetOptions(podman_option=("--runtime=runc",)))


@pytest.mark.parametrize("command", [["size"], ["render", "docker"], ["deploy", "docker"]])
def test_an_image_without_weights_cannot_be_sized(tmp_path: Path, command: list[str]) -> None:
    """One that another tool made, whose layers list nothing: what is in them is looked at."""
    reference = image(tmp_path / "car", tools(), tar(entry("models/config.json", content=CONFIGURATION)))
    with pytest.raises(BadInput, match="the size of the weights is not known") as caught:
        carwright(*command, reference, "--gpu", "cpu")
    assert caught.value.exit_code == 2
    assert reference in caught.value.message
