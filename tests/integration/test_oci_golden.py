"""The same modelcar from Carwright and from GNU tar, sha256sum and jq."""

from __future__ import annotations

import subprocess
from pathlib import Path  # noqa: TC003 -- fixtures are annotated with it

import pytest

from containers.oci.access import open_repository
from containers.oci.repository import image, read_small
from containers.settings import StepSettings
from tests.support.modelcars import push_folder, write_checkpoint

pytestmark = pytest.mark.integration

# What tests/golden/modelcar.sh printed for `write_checkpoint`'s folder when this was written.
GOLDEN = "sha256:60c2f9d0d1857628eba87a9d101dd4dc4ab430af1a0a9072e8203d873490f8d9"


def test_made_by_hand(tmp_path: Path, root: Path) -> None:
    """Layers, configuration and manifest are byte for byte those of the script, and what they were when it was written."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    pushed = push_folder(checkpoint, f"oci:{tmp_path}/car", StepSettings(cache=tmp_path / "cache"))
    blobs = tmp_path / "car" / "blobs" / "sha256"
    with open_repository(f"oci:{tmp_path}/car", StepSettings()) as repository:
        stored, manifest = image(repository, str(pushed.digest))
        config = read_small(repository, manifest.config)
    card = subprocess.run(
        ["tar", "-xOf", blobs / manifest.layers[-1].digest.hex, "README.md"], capture_output=True, check=True
    ).stdout
    (tmp_path / "README.md").write_bytes(card)
    script = [root / "tests/golden/modelcar.sh", checkpoint, tmp_path / "README.md", tmp_path / "by-hand"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
    assert (tmp_path / "by-hand/config.json").read_bytes() == config
    assert (tmp_path / "by-hand/manifest.json").read_bytes() == stored.content
    for layer in manifest.layers:
        assert (tmp_path / "by-hand" / layer.digest.hex).read_bytes() == (blobs / layer.digest.hex).read_bytes()
    assert printed == str(pushed.digest) == GOLDEN
