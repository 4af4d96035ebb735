"""`carwright doctor` with a real engine, registry and store: all is well, and nothing is left there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from infra.doctor import engine, registry, store
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


def test_the_engine_of_this_machine() -> None:
    line = engine.engine(Settings(launcher="docker"))
    assert line.state == "ok", line
    assert ", API 1." in line.text


def test_a_registry_keeps_nothing_of_the_check(tmp_path: Path) -> None:
    """No blob, no tag, no open upload. Distribution 2.8 writes the empty hash of the upload it gave up once more (64 bytes,
    which its own purging removes); it knows the upload no longer.
    """
    with LocalRegistry(tmp_path / "registry") as address:
        line = registry.registry(Settings(cache=tmp_path / "cache"), f"{address}/models/name")
        uploads = list((tmp_path / "registry" / "data").rglob("_uploads/*"))
        known = [httpx.get(f"http://{address}/v2/models/name/blobs/uploads/{one.name}").status_code for one in uploads]
        tags = httpx.get(f"http://{address}/v2/models/name/tags/list")
    assert line.state == "ok", line
    assert set(known) <= {404}
    assert tags.status_code == 404
    files = [path for path in (tmp_path / "registry" / "data").rglob("*") if path.is_file()]
    assert {path.parent.parent.name for path in files} <= {"hashstates"}


def test_a_store_keeps_nothing_of_the_check(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store", tmp_path / "log") as started:
        endpoint = Settings(store=started.model_copy(update={"folder": None}))
        before = store.store(endpoint)
        (tmp_path / "store" / "carwright").mkdir(exist_ok=True)
        line = store.store(endpoint)
    assert (before.state, line.state) == ("ok", "ok"), (before, line)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != ".lock"]
