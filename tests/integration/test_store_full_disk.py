"""The embedded store as a folder, on a disk that is full: every way in and out says so, leaves nothing half, and goes on later."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from containers.process import inherited, run

pytestmark = pytest.mark.integration

# The disk has 60 MB, and 10 MB of them are free when each way is tried with a file of 20 MB that lies elsewhere.
PROGRAM = """
import io, json, os, sys
from pathlib import Path
from containers.contract import Kind, StoreLocation
from containers.digest import Digest
from containers.errors import DiskFull
from containers.settings import StoreSettings
from containers.sha256 import hash_file
from containers.store import FileEntry, Manifest, Store

small, elsewhere = Path(sys.argv[1]), Path(sys.argv[2])
(small / "store").mkdir()
store = Store.open(StoreLocation(endpoint="http://127.0.0.1:9"), StoreSettings(folder=small / "store", direct=True))
known = os.urandom(20 << 20)
entry = FileEntry(path="known", size=len(known), sha256=store.put_bytes(known))
ref = store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(entry,)))
filler = small / "filler"
filler.write_bytes(b"x" * (30 << 20))

def files():
    return sorted(str(path.relative_to(small)) for path in small.rglob("*") if path.is_file() and path != filler)

def new():
    (elsewhere / "new").write_bytes(os.urandom(20 << 20))
    return elsewhere / "new"

def stream():
    content = new().read_bytes()
    store.put_stream(io.BytesIO(content), digest=Digest.of(content), size=len(content))

ways = {
    "put_file": lambda: store.put_file(new()),
    "put_stream": stream,
    "take_file": lambda: store.take_file(new(), hash_file(elsewhere / "new").digest()),
    "get_file": lambda: store.get_file(entry, small / "out" / "known"),
    "materialize": lambda: store.materialize(ref, small / "out"),
}
said, before = {}, files()
for name, way in ways.items():
    try:
        way()
    except DiskFull as error:
        said[name] = [str(error), files() == before]
    else:
        said[name] = ["stored", False]
filler.unlink()
for name, way in ways.items():
    way()
    for path in (small / "out").glob("*"):
        path.unlink()
    for path in (small / "store").rglob("[0-9a-f]*"):
        if path.is_file() and path.name not in {entry.sha256.hex, "0" * 64 + ".json"}:
            path.unlink()
    said[name].append("then it went well")
print(json.dumps(said))
"""


def test_every_way_in_and_out_of_the_folder(tmp_path: Path) -> None:
    """On a file system of its own, which needs unprivileged mount namespaces, or root."""
    small, elsewhere, script = tmp_path / "small", tmp_path / "elsewhere", tmp_path / "full.py"
    small.mkdir()
    elsewhere.mkdir()
    script.write_text(PROGRAM)
    mount = 'mount -t tmpfs -o size=60m,mode=0700 none "$1"; exec "$2" "$3" "$1" "$4"'
    said = run(
        [
            *("unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"),
            *("sh", "-ec", mount, "sh", str(small), sys.executable, str(script), str(elsewhere)),
        ],
        env={**inherited(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=200,
    )
    found = json.loads(said.stdout)
    assert found.keys() == {"put_file", "put_stream", "take_file", "get_file", "materialize"}
    for name, (message, nothing_left, later) in found.items():
        assert "space" in message or "free" in message, (name, message)
        assert nothing_left, name
        assert later == "then it went well"
