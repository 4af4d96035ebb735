"""A machine with Docker and nothing else: Compose builds every image from a checkout and ships the demo.

The machine is a container with Docker's client, Compose v2 and the engine's socket: no Python, make, apt or buildah. The
public base image is stood in for by one that is made here, loaded under its public name; packages come from an index on
loopback over the wheelhouse that `make images` fills.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import secrets
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from infra.environments.pip_indexes import PipIndexes
from infra.images.locked import read_packages
from infra.images.targets import ROOT
from infra.images.wheels import Wheelhouse
from infra.settings import Settings
from tests.support.dry_run_world import docker
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.campaign, pytest.mark.timeout(5400)]

NAME = f"alone-{secrets.token_hex(4)}"
PUBLIC = f"docker.io/library/python:{NAME}"  # the public repository, with a tag that nobody has
CLIENT = f"localhost/{NAME}/client"
WITHOUT = ("python3", "make", "apt-get", "buildah", "mmdebstrap", "pip", "git")


def debian(folder: Path, release: str, variant: str, *packages: str) -> Path:
    """The files of a Debian system as a tar archive."""
    made = folder / f"{release}.tar"
    included = f"--include={','.join(packages)}"
    subprocess.run(["mmdebstrap", "--quiet", f"--variant={variant}", included, release, made, _mirror()], check=True)
    return made


def _mirror() -> str:
    """Where this machine's apt takes Debian's main archive from."""
    asked = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    sites = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    return next(site for site in sites if "security" not in site)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an index (PEP 503: a folder for each project) of all that the images install."""
    settings = Settings()
    wheelhouse = Wheelhouse(settings.cache.expanduser().absolute() / "images" / "wheels")
    tools = read_packages((ROOT / "flows/requirements.lock").read_text())  # with pip, which no image has
    wheelhouse.fetch("flow", tools, lambda _: None, PipIndexes.of(settings))
    folder = tmp_path_factory.mktemp("index")
    for file in wheelhouse.folder.iterdir():
        stem = file.name.partition("-")[0] if file.suffix == ".whl" else re.sub(r"-\d.*", "", file.name)
        project = folder / "simple" / re.sub(r"[-_.]+", "-", stem).lower()
        project.mkdir(parents=True, exist_ok=True)
        (project / file.name).symlink_to(file)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def machine(index: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The start of a command line for a shell on that machine; the checkout is in its /src."""
    folder = tmp_path_factory.mktemp("machine")
    checkout = folder / "checkout"
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)
    python = ("apt", "ca-certificates", "debian-archive-keyring", "python3.11", "python3.11-venv", "python3-pip")
    variables = {
        "CARWRIGHT_PROJECT": NAME,
        "CARWRIGHT_IMAGES": f"localhost/{NAME}",
        "CARWRIGHT_BASE": PUBLIC,
        "CARWRIGHT_BUILD_NETWORK": "host",
        "PIP_INDEX_URL": index,
        **{f"CARWRIGHT_{name}": str(free_port()) for name in ("PORT", "REGISTRY_PORT", "STORE_PORT")},
    }
    docker("import", str(debian(folder, "bookworm", "minbase", *python)), PUBLIC)
    client = debian(folder, "trixie", "essential", "docker-cli", "docker-buildx", "docker-compose")
    docker("import", str(client), CLIENT)
    given = [part for key, value in variables.items() for part in ("--env", f"{key}={value}")]
    mounts = ["--volume=/var/run/docker.sock:/var/run/docker.sock", f"--volume={checkout}:/src:ro", "--workdir=/src"]
    argv = ["docker", "run", "--rm", *mounts, *given, CLIENT, "sh", "-euc"]
    yield argv
    down = "docker compose -f infra/compose.yaml --profile ship down --volumes --remove-orphans"
    subprocess.run([*argv, down], check=True)
    images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    docker("image", "rm", *(image for image in images if NAME in image))


def test_compose_builds_and_ships(machine: list[str], workspace: Workspace) -> None:
    """The modelcar has the digest that the steps make as processes of a prepared machine."""
    absent = " && ".join(f"! command -v {name}" for name in WITHOUT)
    subprocess.run([*machine, absent], check=True)
    up = subprocess.run(
        [*machine, "docker compose -f infra/compose.yaml up --build -d"], capture_output=True, text=True, check=False
    )
    assert up.returncode == 0, up.stderr[-4000:]
    ship = [*machine, "docker compose -f infra/compose.yaml run --rm -T ship --json"]
    shipped = subprocess.run(ship, capture_output=True, text=True, check=False)
    assert shipped.returncode == 0, shipped.stderr[-4000:]
    summary = json.loads(shipped.stdout)
    assert summary["verdict"]["decision"] == "pass", summary["verdict"]["reasons"]

    quantized = workspace.run("quantize", "--output", "model")
    assert quantized.code == 0, quantized.stderr
    pushed = workspace.run("push", "model", "oci:image", "--json")
    assert pushed.json()["reference"].rpartition("@")[2] == summary["digest"]
