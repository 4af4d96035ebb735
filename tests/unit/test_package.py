"""What is installed works without the checkout: code, locks, suites and templates travel in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel that this checkout makes."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_file_of_the_product_is_in_the_wheel(unpacked: Path) -> None:
    """Benchmarks excepted, which measure a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "flows", "containers", "infra"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = {name for name in listed if "/bench/" not in name and (ROOT / name).exists()}
    assert {"flows/cli/main.py", "infra/prefect.yaml", "containers/quantize/requirements.lock"} <= expected
    assert not {name for name in expected if not (unpacked / name).is_file()}


def test_the_wheel_works_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    """Run by this environment's libraries, but with the wheel's modules: the locks are found there."""
    script = (
        "import containers, flows\n"
        "from containers.contract import Step\n"
        "from containers.fingerprints import fingerprint_inputs\n"
        "from infra.environments.environment import lock_of\n"
        "print(containers.__path__[0], flows.__path__[0], *[lock_of(step) for step in Step], sep='\\n')\n"
        "assert all(lock_of(step).is_file() and fingerprint_inputs(step) for step in Step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + len(Step)
    assert all(line.startswith(str(unpacked)) for line in lines)


def test_the_command_is_declared(unpacked: Path) -> None:
    (info,) = unpacked.glob("carwright-*.dist-info")
    assert "carwright = flows.cli.main:main" in (info / "entry_points.txt").read_text()
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()
