"""`carwright clean` in a folder with a store of its own."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from containers.contract import Kind
from containers.store import FileEntry, Manifest, Store
from flows.cli.main import app
from flows.local import embedded
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with an artifact, with a blob that a killed run left weeks ago, and with one of today."""
    monkeypatch.setenv("CARWRIGHT_HOME", str(tmp_path / "home"))
    with embedded.store(Settings()) as served:
        store = Store.open(served.store.location, served.store)
        named, _, _ = (store.put_bytes(content) for content in (b"named", b"left", b"today"))
        entry = FileEntry(path="a", size=5, sha256=named)
        store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(entry,)))
    weeks_ago = time.time() - 21 * 86400
    for blob in (tmp_path / "home" / "store").rglob("blobs/sha256/*"):
        if blob.read_bytes() != b"today":
            os.utime(blob, (weeks_ago, weeks_ago))
    return tmp_path / "home"


def clean(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["clean", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def left(home: Path) -> list[bytes]:
    return sorted(blob.read_bytes() for blob in (home / "store").rglob("blobs/sha256/*"))


def test_what_no_artifact_needs_goes_once_it_is_old(home: Path) -> None:
    """A dry run says so, and takes nothing; what is left of a download goes as ever."""
    (home / "partial").mkdir()
    told = clean("--dry-run")
    assert "would remove 1 blob(s) (4 B) of the store" in told
    assert f"would remove {home / 'partial'}" in told.replace("\n", "")
    assert (home / "partial").exists()
    assert "1 blob(s)" not in clean("--dry-run", "--older", "30d")
    assert left(home) == [b"left", b"named", b"today"]
    assert "removed 1 blob(s) (4 B) of the store" in clean()
    assert left(home) == [b"named", b"today"]
    assert not (home / "partial").exists()
    assert "blob(s)" not in clean()


def test_all_is_all(home: Path) -> None:
    """The store goes with its folder, unless it is a dry run."""
    clean("--all", "--dry-run")
    assert left(home) == [b"left", b"named", b"today"]
    clean("--all")
    assert not home.exists()
