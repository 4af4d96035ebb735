"""`carwright clean` in a folder with a store of its own."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from containers.contract import Kind
from containers.errors import BadInput
from containers.store import FileEntry, Manifest, Store
from flows.cli.main import app
from flows.local import embedded
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


FINGERPRINT = "0" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with an artifact and a blob that a killed run left, of weeks ago, and with a blob of today."""
    monkeypatch.setenv("CARWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARWRIGHT_CACHE", str(tmp_path / "cache"))
    with embedded.store(Settings()) as served:
        store = Store.open(served.store.location, served.store)
        named, _ = (store.put_bytes(content) for content in (b"named", b"left"))
        entry = FileEntry(path="a", size=5, sha256=named)
        store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint=FINGERPRINT, files=(entry,)))
        make_old(tmp_path / "home")
        store.put_bytes(b"today")
        store.write_key("watch/hub.json", b"{}")
    return tmp_path / "home"


def make_old(home: Path) -> None:
    weeks_ago = time.time() - 21 * 86400
    for path in (home / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (weeks_ago, weeks_ago))


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def clean(*arguments: str) -> str:
    return command("clean", *arguments)


def left(home: Path) -> list[bytes]:
    return sorted(blob.read_bytes() for blob in (home / "store").rglob("blobs/sha256/*"))


def test_what_nothing_needs_goes_once_it_is_old(home: Path) -> None:
    """A dry run says what and why, and takes nothing; what is left of a download goes as ever."""
    (home / "partial").mkdir()
    old = home.parent / "cache" / "envs" / "push-0123456789ab"
    old.mkdir(parents=True)
    (old / "environment.json").write_text("{}")
    os.utime(old / "environment.json", (1e9, 1e9))
    told = clean("--dry-run")
    assert re.search(r"would go +checkpoint +21 d +5 B +0 B +nothing needs it +000000000000 a\n", told)
    assert re.search(r"would go +1 blobs +4 B +0 B +no artifact names them\n", told)
    assert "would remove 1 artifact(s) and 1 blob(s) of no artifact (9 B) of the store; 5 B stay" in told
    assert f"would remove {home / 'partial'}" in told.replace("\n", "")
    assert re.search(rf"would go +environment .* of another lock, unused +{old}\n", told)
    assert (home / "partial").exists()
    assert "of the store" not in clean("--dry-run", "--older", "30d")
    assert left(home) == [b"left", b"named", b"today"]
    assert "removed 1 artifact(s) and 1 blob(s) of no artifact (9 B) of the store" in clean()
    assert left(home) == [b"today"]
    assert not (home / "partial").exists()
    assert not old.exists()
    assert "of the store" not in clean()


def test_what_is_pinned_stays(home: Path) -> None:
    """Until it is unpinned; a file of it that has gone is said, and ends nothing."""
    assert "pinned 0000" in command("pin", FINGERPRINT[:8])
    make_old(home)
    with embedded.store(Settings()) as served:
        Store.open(served.store.location, served.store).write_key("watch/hub.json", b"{}")
    told = json.loads(clean("--dry-run", "--json"))["store"]
    assert [(one["fingerprint"], one["goes"], one["why"]) for one in told["artifacts"]] == [
        (FINGERPRINT, False, "pinned")
    ]
    assert told["notes"] == []
    next(path for path in (home / "store").rglob("blobs/sha256/*") if path.read_bytes() == b"named").unlink()
    assert "gone" in command("pin")
    assert "pinned, and not whole any more: the checkpoint 000000000000" in clean("--dry-run")
    assert "no longer pinned" in command("unpin", FINGERPRINT[:8])
    assert "nothing is pinned" in command("pin")


def test_what_cannot_be_pinned(home: Path) -> None:
    for what, message in (("ffff", "0 artifacts"), ("0", "0 artifacts"), ("registry:5000/a:1", "0 artifacts")):
        with pytest.raises(BadInput, match=message):
            command("pin", what)
    with pytest.raises(BadInput, match="0 pins"):
        command("unpin", FINGERPRINT)


def test_all_is_all(home: Path) -> None:
    """The store goes with its folder, unless it is a dry run."""
    clean("--all", "--dry-run")
    assert left(home) == [b"left", b"named", b"today"]
    clean("--all")
    assert not home.exists()
