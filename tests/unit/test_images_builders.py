"""Which builder is chosen on which machine, what it is called with, and what the ordinary build is told about its network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from containers.errors import BadInput
from flows.cli.images import app
from flows.local.dry_run.site import TARGETS as NEEDED
from infra import socket_user
from infra.images import ordinary
from infra.images.builders import PROMISES, Builder, choose
from infra.images.engine_builder import EngineBuilder
from infra.images.inside import offline
from infra.images.targets import TARGETS, find
from infra.settings import DockerSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path

HERMETIC = ("buildah", "mmdebstrap", "apt-get", "dpkg-deb")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, *names: str, script: str = "exit 0") -> None:
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


def test_the_hermetic_build_comes_first(programs: Path) -> None:
    install(programs, *HERMETIC, "docker", "podman")
    assert choose() is Builder.HERMETIC
    assert choose(Builder.DOCKER) is Builder.DOCKER
    assert choose(Builder.PODMAN) is Builder.PODMAN


@pytest.mark.parametrize("missing", HERMETIC)
def test_without_one_of_its_programs_docker_builds(programs: Path, missing: str) -> None:
    install(programs, *(name for name in HERMETIC if name != missing), "docker")
    assert choose() is Builder.DOCKER
    with pytest.raises(BadInput, match=f"the hermetic build needs {missing}"):
        choose(Builder.HERMETIC)


def test_with_a_base_buildah_is_enough(programs: Path) -> None:
    install(programs, "buildah")
    assert choose(base="a@sha256:" + "0" * 64) is Builder.HERMETIC


def test_docker_without_an_engine_or_without_buildkit_is_passed_over(programs: Path) -> None:
    install(programs, "docker", script="echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(BadInput, match=r"docker: .*Cannot connect to the Docker daemon.*; podman: not installed"):
        choose()
    install(programs, "podman")
    assert choose() is Builder.PODMAN
    install(programs, "docker", script='[ "$1" = info ] && exit 0; echo "ERROR: buildx is missing" >&2; exit 1')
    assert choose() is Builder.PODMAN
    with pytest.raises(BadInput, match="buildx is missing"):
        choose(Builder.DOCKER)


def test_the_promise_is_said_before_anything_is_built(programs: Path) -> None:
    install(
        programs, "docker", script='[ "$1" = image ] && exit 0; [ "$2" = --help ] && exit 0; [ "$1" = info ] || exit 3'
    )
    result = CliRunner().invoke(app, ["load", "registry"])
    assert result.exit_code != 0
    assert "Not promised: bit-identical images" in re.sub(r"\s+", " ", result.stderr)
    assert set(PROMISES) == set(Builder) - {Builder.AUTO}


def engine(kind: Builder, **given: str) -> EngineBuilder:
    return EngineBuilder(kind, Settings(docker=DockerSettings(image="x/{target}:1")), lambda *_: None, **given)


def test_what_the_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Target, base and labels on the command line; what may hold a password by name alone."""
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@index.example/simple")
    (push,) = find(["push"])
    argv = engine(Builder.DOCKER).argv(push)
    said = " ".join(argv)
    assert argv[:2] == ["docker", "build"]
    assert f"BASE={ordinary.BASE}" in argv
    assert "TARGET=push" in argv
    assert "PIP_INDEX_URL" in argv
    assert "secret" not in said
    assert "--network" not in argv
    assert re.search(r"dev\.carwright\.inputs=sha256:[0-9a-f]{64}", said)
    assert "--format=docker" in engine(Builder.PODMAN).argv(push)
    monkeypatch.setenv("CARWRIGHT_BUILD_NETWORK", "host")
    monkeypatch.setenv("CARWRIGHT_BASE", "mine:1")
    argv = engine(Builder.DOCKER).argv(push)
    assert argv[argv.index("--network") + 1] == "host"
    assert "BASE=mine:1" in argv
    assert "BASE=other:1" in engine(Builder.DOCKER, base="other:1").argv(push)


def test_an_engine_does_not_make_the_base_of_modelcars() -> None:
    (base,) = find(["modelcar-base"])
    with pytest.raises(BadInput, match="by the hermetic build only"):
        engine(Builder.DOCKER).argv(base)


def test_images_of_another_builder_are_not_up_to_date() -> None:
    (push,) = find(["push"])
    assert engine(Builder.DOCKER).inputs(push).digest != engine(Builder.DOCKER, base="another").inputs(push).digest


def test_compose_builds_what_a_dry_run_needs(root: Path) -> None:
    """Each image by the target of its name, from one base; no service takes an image that nobody builds."""
    services = yaml.safe_load((root / "infra" / "compose.yaml").read_text())["services"]
    built = {}
    for service in services.values():
        name = service["image"].partition("}/")[2].partition(":")[0]
        if "build" in service:
            assert service["build"]["target"] == service["build"]["args"]["TARGET"] == name
            assert ordinary.BASE in service["build"]["args"]["BASE"]
            built[name] = service["build"]
    assert set(built) == {*NEEDED, "postgres"} <= {target.name for target in TARGETS}
    used = {service["image"].partition("}/")[2].partition(":")[0] for service in services.values()}
    assert used == set(built)


def test_the_checkout_that_a_build_is_given_holds_no_state(root: Path) -> None:
    """An allowlist: what somebody keeps beside the code, such as keys, goes to no builder."""
    lines = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {"Containerfile", "containers", "flows", "infra"}


def test_a_build_with_a_network_says_so(tmp_path: Path) -> None:
    """The check of the hermetic build lets it pass."""
    program = tmp_path / "offline.py"
    shutil.copyfile(offline.__file__, program)
    (tmp_path / offline.ALLOWED).touch()
    assert subprocess.run([sys.executable, program], check=False).returncode == 0


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    assert socket_user.group_of(tmp_path / "socket") == (tmp_path / "socket").stat().st_gid
    with pytest.raises(BadInput, match=r"nowhere.*No such file") as refused:
        socket_user.group_of(tmp_path / "nowhere")
    assert "CARWRIGHT_SOCKET" in refused.value.remedy
    argv = [sys.executable, "-m", "infra.socket_user", "--socket", str(tmp_path / "nowhere"), "true"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == BadInput.exit_code


def test_a_socket_that_its_group_may_not_use_is_refused(tmp_path: Path) -> None:
    """Before a worker takes runs that it cannot start. As root: with what the worker's container has."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user")
    socket = tmp_path / "socket"
    socket.touch(mode=0o600)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    argv = [sys.executable, "-m", "infra.socket_user", "--socket", str(socket), "true"]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert refused.returncode == BadInput.exit_code
    assert "user 1001 with group 0 may not use" in refused.stderr
    socket.chmod(0o660)
    assert subprocess.run(argv, check=False).returncode == 0
