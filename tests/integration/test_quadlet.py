"""The Quadlet units under tests/golden/targets, read by podman's own generator.

Debian 12's podman is older than Quadlet, so the generator comes out of Debian 13's package: a program that needs nothing but
the C library. Any of that release will do, and apt checks the archive's signature.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from containers.process import run
from tests.support.deployments import GOLDEN

pytestmark = pytest.mark.integration
INSTALLED = Path("/usr/libexec/podman/quadlet")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
UNITS = sorted(GOLDEN.glob("*/*.container"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if INSTALLED.exists():
        return INSTALLED
    root = tmp_path_factory.mktemp("apt")
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    known = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).stdout.split()
    mirror = next(uri for uri in known if uri.rstrip("/").endswith("/debian"))
    (root / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYRING}] {mirror} trixie main\n")
    options = {
        "Dir::State::lists": root / "lists", "Dir::State::status": root / "status", "Dir::Cache": root / "cache",
        "Dir::Etc::sourcelist": root / "sources.list", "Dir::Etc::sourceparts": root / "parts",
        "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "3",
    }  # fmt: skip
    apt = ["apt-get", "-q", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    run([*apt, "update", "--error-on=any"], timeout=180)
    run([*apt, "download", "podman"], cwd=root, timeout=180)
    (package,) = root.glob("podman_*.deb")
    run(["dpkg-deb", "--extract", str(package), str(root / "podman")])
    return root / "podman" / INSTALLED.relative_to("/")


def generated(generator: Path, folder: Path) -> str:
    """What systemd would be given for the units in a folder; the generator says on standard error what it passed over."""
    ended = subprocess.run(
        [str(generator), "-dryrun"],
        env=os.environ | {"QUADLET_UNIT_DIRS": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in ended.stderr.splitlines() if "Loading source unit file" not in line]
    assert not complaints, "\n".join(complaints)
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.parent.name)
def test_the_generator_takes_the_unit_as_it_was_meant(generator: Path, unit: Path) -> None:
    """The command that systemd starts has what the script beside it has: image, model, port, GPUs and every argument."""
    service = generated(generator, unit.parent)
    (started,) = re.findall(r"(?m)^ExecStart=(.*)$", service)
    command = shlex.split(started)
    script = shlex.split(unit.with_suffix(".podman.sh").read_text().partition("podman run --rm")[2])
    values = [word for word in script if "=" in word or "@" in word or ":" in word]
    assert values
    assert [word for word in values if word not in command] == []
    assert command[command.index("--mount") + 1].startswith("type=image,source=")


def test_a_key_that_quadlet_does_not_know_is_noticed(generator: Path, tmp_path: Path) -> None:
    """The check can fail."""
    (tmp_path / "x.container").write_text(UNITS[0].read_text().replace("Mount=", "Mountt="))
    with pytest.raises(AssertionError, match="unsupported key 'Mountt'"):
        generated(generator, tmp_path)
