"""The embedded server: who can see its keys, what is left when somebody dies, and a disk that is full."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from containers.contract import StoreLocation
from containers.digest import Digest
from containers.errors import BadInput
from containers.process import inherited, run
from containers.store import Store
from infra.objectstore import EmbeddedStore
from tests.support.waiting import until

if TYPE_CHECKING:
    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration


def connect(settings: StoreSettings) -> Store:
    return Store.open(StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket), settings)


def command_lines() -> list[str]:
    """Of every process of this machine, as `ps` shows them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def serve_for_ever(folder: Path, log: Path, address: Any) -> None:
    with EmbeddedStore(folder, log) as settings:
        address.put(settings)
        time.sleep(600)


def answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=5)
    except httpx.TransportError:
        return False
    return True


def test_what_is_stored_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Also below a folder that an older version has left open."""
    (tmp_path / "store").mkdir(mode=0o755)
    before = os.umask(0o000)
    try:
        with EmbeddedStore(tmp_path / "store", tmp_path / "logs" / "log") as settings:
            connect(settings).put_bytes(b"a blob")
    finally:
        os.umask(before)
    assert [str(path) for path in tmp_path.rglob("*") if path.stat().st_mode & 0o077] == []


def test_keys_are_new_every_time_and_seen_by_nobody(tmp_path: Path) -> None:
    """Neither on a command line nor in the log; and without them the server gives nothing away."""
    seen = set()
    for _ in range(2):
        with EmbeddedStore(tmp_path / "store", tmp_path / "log") as settings:
            assert settings.access_key_id is not None
            assert settings.secret_access_key is not None
            connect(settings).put_bytes(b"private")
            lines = [line for line in command_lines() if str(tmp_path / "store") in line]
            assert any("rclone" in line for line in lines)
            for secret in (settings.access_key_id.get_secret_value(), settings.secret_access_key.get_secret_value()):
                assert len(secret) >= 20
                assert not any(secret in line for line in lines)
                assert secret not in (tmp_path / "log").read_text()
                assert secret not in repr(settings)
                seen.add(secret)
            url = f"{settings.endpoint}/{settings.bucket}"
            for path in ("", "?list-type=2", f"/blobs/sha256/{Digest.of(b'private').hex}"):
                answer = httpx.get(url + path)
                assert answer.status_code in {400, 403}
                assert "private" not in answer.text
    assert len(seen) == 4


def test_it_listens_on_loopback_alone_and_ends_with_its_block(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store", tmp_path / "log") as settings:
        assert settings.endpoint is not None
        assert settings.endpoint.startswith("http://127.0.0.1:")
        assert answers(settings.endpoint)
        assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    assert not answers(settings.endpoint)
    assert not any(str(tmp_path / "store") in line for line in command_lines())


def test_it_dies_with_a_killed_owner(tmp_path: Path) -> None:
    """SIGKILL to the owner ends the server; what was stored is there for the next one."""
    spawn = multiprocessing.get_context("spawn")
    address = spawn.Queue()
    owner = spawn.Process(target=serve_for_ever, args=(tmp_path / "store", tmp_path / "log", address))
    owner.start()
    settings = address.get(timeout=60)
    digest = connect(settings).put_bytes(b"kept")
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    until(lambda: not answers(settings.endpoint), "the server has ended")
    with EmbeddedStore(tmp_path / "store", tmp_path / "log") as again:
        assert connect(again).read_bytes(digest) == b"kept"


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    """Each sees what the other stores, without a restart."""
    folder = tmp_path / "store"
    with EmbeddedStore(folder, tmp_path / "log1") as one, EmbeddedStore(folder, tmp_path / "log2") as two:
        assert one.endpoint != two.endpoint
        first, second = connect(one), connect(two)
        for number in range(2):
            for writer, reader in ((first, second), (second, first)):
                content = f"{number} {id(writer)}".encode()
                digest = writer.put_bytes(content)
                until(partial(reader.has_blob, digest, len(content)), "the other one sees it")
                assert reader.read_bytes(digest) == content


def test_leftovers_go_when_nobody_else_is_there(tmp_path: Path) -> None:
    """A half-written object of a killed server is removed by the next one, unless another may still be writing it."""
    folder = tmp_path / "store"
    leftover = folder / "carwright" / "blobs" / "sha256" / ".rclone_temp_put_1"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    with EmbeddedStore(folder, tmp_path / "log1"):
        assert not leftover.exists()
        leftover.write_bytes(b"half")
        with EmbeddedStore(folder, tmp_path / "log2"):
            assert leftover.exists()
    with EmbeddedStore(folder, tmp_path / "log1"):
        assert not leftover.exists()


def test_a_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be used"), EmbeddedStore(tmp_path / "file" / "store", tmp_path / "log"):
        pass


@pytest.mark.parametrize("missing", ["package", "program"])
def test_no_rclone_for_this_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def files(name: str) -> list[importlib.metadata.PackagePath]:
        if missing == "package":
            raise importlib.metadata.PackageNotFoundError(name)
        return []

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(BadInput, match="CARWRIGHT_STORE__ENDPOINT"), EmbeddedStore(tmp_path, tmp_path / "log"):
        pass


FULL = """
import json, os, sys
from pathlib import Path
from containers.contract import StoreLocation
from containers.digest import Digest
from containers.errors import Error
from containers.store import FileEntry, Store
from infra.objectstore import EmbeddedStore

small, log = Path(sys.argv[1]), Path(sys.argv[2])
said = []

def attempt(work):
    try:
        work()
    except Error as error:
        said.append([type(error).__name__, str(error)])
    else:
        said.append(["", ""])

def fill(left):
    status = os.statvfs(small)
    with (small / "filler").open("wb", buffering=0) as file:
        file.write(b"x" * (status.f_bavail * status.f_frsize - left))  # less where the server was faster

class Filling:
    "A source during whose reading somebody else fills the disk."
    def __init__(self, content): self.at, self.content = 0, content
    def read(self, size):
        if self.at and not (small / "filler").exists(): fill(1 << 20)
        piece = self.content[self.at : self.at + size]
        self.at += len(piece)
        return piece

with EmbeddedStore(small / "store", log) as settings:
    store = Store.open(StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket), settings)
    first = os.urandom(20 << 20)
    attempt(lambda: store.put_bytes(first))
    large = os.urandom(60 << 20)
    digest = Digest.of(large)
    attempt(lambda: store.put_stream(Filling(large), digest=digest, size=len(large)))
    said.append(["has", store.has_blob(digest, len(large))])
    entry = FileEntry(path="x", size=len(first), sha256=Digest.of(first))
    attempt(lambda: store.get_file(entry, small / "fetched"))
    said.append(["left", [path.name for path in small.iterdir() if path.name not in {"store", "filler"}]])
    (small / "filler").unlink()
    attempt(lambda: store.put_stream(Filling(b"y" * (200 << 20)), digest=Digest("a" * 64), size=200 << 20))
    attempt(lambda: store.read_bytes(Digest.of(first)))
fill(1 << 20)
def start():
    with EmbeddedStore(small / "store", log): pass
attempt(start)
print(json.dumps(said))
"""


def test_a_full_disk_is_said_and_nothing_is_half_stored(tmp_path: Path) -> None:
    """While a blob is written, while one is fetched, before one that cannot fit is begun, and at the server's start.

    On a file system of 120 MB of its own, which needs unprivileged mount namespaces, or root.
    """
    small = tmp_path / "small"
    small.mkdir()
    script = tmp_path / "full.py"
    script.write_text(FULL)
    said = run(
        [
            "unshare",
            *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
            "--mount",
            "sh",
            "-ec",
            'mount -t tmpfs -o size=120m,mode=0700 none "$1"; exec "$2" "$3" "$1" "$4"',
            "sh",
            str(small),
            sys.executable,
            str(script),
            str(tmp_path / "log"),
        ],
        env={**inherited(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=200,
    )
    stored, filled, has, fetched, left, too_large, still_there, started = json.loads(said.stdout)
    assert stored == ["", ""]
    assert filled[0] == "DiskFull"
    assert str(small) in filled[1]
    assert has == ["has", False]
    assert fetched[0] == "DiskFull"
    assert left == ["left", []]
    assert too_large[0] == "DiskFull"
    assert "209.7 MB" in too_large[1]
    assert still_there == ["", ""]
    assert started[0] == "DiskFull"
