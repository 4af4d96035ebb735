"""Folders as they lie on disks: what must not leave the machine does not, and pointers of git-LFS are told from files."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from containers.checkpoint_files import never_belongs
from containers.download.checks import check_small_files
from containers.download.selection import Remote, select
from containers.errors import BadInput
from containers.foreign_json import parse_object
from containers.oci.access import open_push_cache
from containers.oci.base import empty_base
from containers.oci.lint import lint
from containers.oci.plan import make_plan
from containers.oci.source import CheckpointFolder
from containers.oci.verify import verify
from containers.quantize.checkpoint import FolderFiles, read_checkpoint
from containers.safetensors import read_header
from containers.settings import StepSettings
from flows.targets.model import of_folder
from tests.support.modelcars import push_folder, write_checkpoint
from tests.unit.test_checkpoint_files import LEFTOVERS, SECRETS

if TYPE_CHECKING:
    from pathlib import Path

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4976698672\n"
)
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    return StepSettings(cache=tmp_path / "cache")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def add(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"SECRET=hunter2\n")


def test_what_belongs_in_no_checkpoint_is_not_packed(checkpoint: Path, settings: StepSettings) -> None:
    """The image is the same as without it, and the plan says what was left out."""
    clean = push_folder(checkpoint, f"oci:{checkpoint.parent}/clean", settings)
    add(checkpoint, *LEFTOVERS, *SECRETS)
    source = CheckpointFolder(checkpoint, open_push_cache(settings))
    assert not [file.path for file in source.files if never_belongs(file.path)]
    plan = make_plan(source, (empty_base("linux/amd64"),), open_push_cache(settings))
    assert any("belong in no checkpoint: " in note and ".env" in note for note in plan.notes)
    assert push_folder(checkpoint, f"oci:{checkpoint.parent}/full", settings).digest == clean.digest
    assert FolderFiles(checkpoint).listing() == FolderFiles(checkpoint).listing()
    assert not [file.path for file in FolderFiles(checkpoint).listing() if never_belongs(file.path)]


def test_a_download_takes_none_of_it_either(checkpoint: Path) -> None:
    """One rule for both."""
    names = ["config.json", "tokenizer.json", "model.safetensors", *LEFTOVERS, *SECRETS, "id_rsa.json", "x.bak/a.json"]
    taken = select([Remote(name, 10) for name in dict.fromkeys(names)], "here").taken
    assert [file.path for file in taken] == ["config.json", "id_rsa.json", "model.safetensors", "tokenizer.json"]


def test_lint_names_what_another_tool_packed(
    checkpoint: Path, settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containers.oci.source.never_belongs", lambda _: False)  # as a tool without the rule
    add(checkpoint, ".env", ".ipynb_checkpoints/x", "a.incomplete")
    push_folder(checkpoint, f"oci:{checkpoint.parent}/full:v1", settings)
    found = {one.rule: one for one in lint(f"oci:{checkpoint.parent}/full:v1", settings)}
    assert (found["no-secrets"].level, found["no-secrets"].message) == ("error", "files that hold logins: .env")
    assert found["no-leftovers"].level == "warning"
    assert "a.incomplete" in found["no-leftovers"].message
    assert found["no-pointers"].level == "ok"


@pytest.mark.parametrize("path", [SHARD, "config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_pointer_is_not_packed(checkpoint: Path, settings: StepSettings, path: str) -> None:
    (checkpoint / path).write_bytes(POINTER)
    with pytest.raises(BadInput, match=f"{path} is a git-LFS pointer") as caught:
        push_folder(checkpoint, f"oci:{checkpoint.parent}/car", settings)
    assert "git lfs pull" in caught.value.remedy
    assert not (checkpoint.parent / "car").exists()


@pytest.mark.parametrize("path", [SHARD, "config.json", "model.safetensors.index.json"])
def test_a_pointer_is_not_quantized(checkpoint: Path, path: str) -> None:
    (checkpoint / path).write_bytes(POINTER)
    with pytest.raises(BadInput, match=f"{path} is a git-LFS pointer"):
        read_checkpoint(FolderFiles(checkpoint))


def test_a_pointer_is_not_sized(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(POINTER)
    with pytest.raises(BadInput, match=r"config\.json is a git-LFS pointer"):
        of_folder(checkpoint)


def test_a_pointer_is_not_downloaded(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_bytes(POINTER)
    files = [Remote(path.relative_to(checkpoint).as_posix(), path.stat().st_size) for path in checkpoint.rglob("*.*")]
    with pytest.raises(BadInput, match=r"here: tokenizer\.json is a git-LFS pointer"):
        check_small_files(select(files, "here"), checkpoint, "here")


def test_lint_and_verify_find_a_pointer(
    checkpoint: Path, settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an image of another tool, which packed it without a look."""
    (checkpoint / SHARD).write_bytes(POINTER)
    monkeypatch.setattr("containers.oci.source.is_lfs_pointer", lambda _: False)
    push_folder(checkpoint, f"oci:{checkpoint.parent}/car:v1", settings)
    (found,) = [one for one in lint(f"oci:{checkpoint.parent}/car:v1", settings) if one.rule == "no-pointers"]
    assert (found.level, found.message) == ("error", f"git-LFS pointers instead of files: {SHARD}")
    checked = verify(f"oci:{checkpoint.parent}/car:v1", settings, open_push_cache(settings))
    assert [(one.kind, one.path) for one in checked.differences] == [("pointer", SHARD)]


@pytest.mark.parametrize("content", [POINTER, POINTER.replace(b"git-lfs.github", b"hawser.github"), POINTER + b"x 1\n"])
def test_a_header_that_is_a_pointer(content: bytes) -> None:
    """Its first eight bytes read as a length of 2,336,927,755,350,992,246."""
    with pytest.raises(BadInput, match="m is a git-LFS pointer"):
        read_header(BytesIO(content), "m", len(content))
    with pytest.raises(BadInput, match="c is a git-LFS pointer"):
        parse_object(content, "c")


def test_text_that_only_looks_alike_is_none() -> None:
    with pytest.raises(BadInput, match="is not JSON"):
        parse_object(json.dumps({"version": 1})[1:], "c")
