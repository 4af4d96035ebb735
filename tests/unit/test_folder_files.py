"""What a folder may take into a checkpoint: files, links within it, and the layout of the hub's cache; nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.digest import Digest
from containers.download.folder import FolderOrigin
from containers.download.selection import Remote
from containers.errors import BadInput
from containers.folder_files import SourceFolder
from containers.oci.push_cache import PushCache
from containers.oci.source import CheckpointFolder
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.plan import make_plan
from containers.quantize.preflight import prepare
from containers.settings import StepSettings
from containers.sources import FolderSource
from flows.targets.model import of_folder
from tests.support.attacks import CONFIGURATION
from tests.support.checkpoints import ends, layer, write
from tests.support.modelcars import push_folder

if TYPE_CHECKING:
    from collections.abc import Callable

_SECRET = "a key that is not part of any checkpoint"


def _link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


def _chain(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("sub/three")
    (folder / "sub").mkdir()
    (folder / "sub/three").symlink_to("../../secret")


def _through_a_folder(folder: Path) -> None:
    (folder / "sub").symlink_to("..")


def _bare_socket(folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket.json")
    finally:
        os.chdir(before)


def _other_repository(folder: Path) -> None:
    """As in the hub's cache, and the file is another repository's."""
    other = folder.parent / "models--b--other/blobs"
    other.mkdir(parents=True)
    (other / "00").write_text(_SECRET)
    (folder / "config_2.json").symlink_to(other / "00")


# What is put into a folder beside which lies a file `secret`.
ATTACKS: dict[str, Callable[[Path], object]] = {
    "a link to a file beside it": _link("notes.json", "../secret"),
    "a link to a file of the system": _link("notes.json", "/etc/passwd"),
    "a link in the place of the weights": lambda folder: (
        (folder / "extra.safetensors").symlink_to("/etc/passwd")
    ),
    "a link to the person's keys": lambda folder: (folder / "LICENSE").symlink_to(folder.parent / "secret"),
    "a link that goes out and comes in": lambda folder: (folder / "a.json").symlink_to(f"../{folder.name}/../secret"),
    "a chain of links": _chain,
    "a link to a file of this process": _link("notes.json", "/proc/self/environ"),
    "a link to what another process has open": _link("notes.json", "/proc/self/fd/0"),
    "a link to the root of a process": _link("root.json", "/proc/self/root/etc/passwd"),
    "a link to nothing": _link("notes.json", "nowhere"),
    "a link to itself": _link("notes.json", "notes.json"),
    "links in a circle": lambda folder: ((folder / "a.json").symlink_to("b.json"), (folder / "b.json").symlink_to("a.json")),
    "a link to zeros without end": _link("notes.json", "/dev/zero"),
    "a link to a terminal": _link("notes.json", "/dev/tty"),
    "a link to randomness": _link("weights.safetensors", "/dev/urandom"),
    "a link to a folder beside it": _through_a_folder,
    "a link to a folder of the system": _link("etc", "/etc"),
    "a link to a folder within": lambda folder: ((folder / "one").mkdir(), (folder / "two").symlink_to("one")),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe.json"),
    "a link to a pipe": lambda folder: (os.mkfifo(folder.parent / "pipe"), (folder / "a.json").symlink_to("../pipe")),
    "a link to a pipe within": lambda folder: (os.mkfifo(folder / "pipe"), (folder / "a.json").symlink_to("pipe")),
    "a socket": _bare_socket,
    "a link to the blobs of another model": _other_repository,
    "a name that begins alike": lambda folder: (
        (folder.parent / f"{folder.name}-2").mkdir(),
        (folder.parent / f"{folder.name}-2/secret").write_text(_SECRET),
        (folder / "a.json").symlink_to(f"../{folder.name}-2/secret"),
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(_SECRET)
    made = write(tmp_path / "model", [ends() | layer(0)])
    (made / "config.json").write_bytes(CONFIGURATION)
    return made


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_takes_it(folder: Path, tmp_path: Path, attack: str) -> None:
    """`download`, `push` and `quantize` refuse the folder; the message names the file, and nothing is written."""
    ATTACKS[attack](folder)
    settings = StepSettings(cache=tmp_path / "cache")
    with pytest.raises(BadInput) as caught:
        FolderOrigin(FolderSource(folder)).files(None)
    assert caught.value.remedy
    assert "link" in f"{caught.value.message} {caught.value.remedy}" or "not a regular file" in caught.value.message
    with pytest.raises(BadInput):
        prepare(FolderFiles(folder), QuantizeParameters(), {})
    with pytest.raises(BadInput):
        push_folder(folder, f"oci:{tmp_path}/car", settings)
    assert not (tmp_path / "car").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_a_deployment_reads(folder: Path, name: str) -> None:
    """`carwright size DIR` reads config.json and looks at the weights."""
    of_folder(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../secret")
    with pytest.raises(BadInput, match="leads out of"):
        of_folder(folder)


def _swap_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../secret")


def _swap_folder(folder: Path) -> None:
    (folder / "sub/tokenizer.json").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to("..")
    (folder.parent / "tokenizer.json").write_text(_SECRET)


def _swap_for_a_pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


SWAPS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a file becomes a link": ("tokenizer.json", _swap_file),
    "a folder becomes a link": ("sub/tokenizer.json", _swap_folder),
    "a file becomes a pipe": ("tokenizer.json", _swap_for_a_pipe),
}


@pytest.mark.parametrize("attack", SWAPS)
def test_what_is_put_in_place_after_the_look_is_not_read(folder: Path, attack: str) -> None:
    """Between the listing and the reading; the reader neither waits for a pipe nor opens the file that a link leads to."""
    path, swap = SWAPS[attack]
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text("{}")
    origin = FolderOrigin(FolderSource(folder))
    remote = next(file for file in origin.files(None) if file.path == path)
    quantizer, pushed = FolderFiles(folder), CheckpointFolder(folder, PushCache(None))
    listed = next(file for file in quantizer.listing() if file.path == path)
    swap(folder)
    with pytest.raises(BadInput), origin.open(remote, 0, 2):
        pass
    held = origin.held(remote)
    assert held is not None
    with pytest.raises(BadInput), held:
        pass
    with pytest.raises(BadInput), quantizer.open(listed):
        pass
    with pytest.raises(BadInput):
        pushed.open(path)
    with pytest.raises(BadInput):
        pushed.learned(path, Digest.of(b""))


def test_what_is_held_stays_the_same_file(folder: Path) -> None:
    """Even when its name gets to mean another one within the block."""
    with SourceFolder(folder).held("tokenizer.json") as path:
        _swap_file(folder)
        assert path.read_text() == "{}"


def test_the_hubs_cache_is_read(tmp_path: Path) -> None:
    """`snapshots/<commit>/file` is a link to `blobs/<hash>` of the same repository, in folders below as well."""
    repository = tmp_path / "hub/models--acme--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    plain = write(tmp_path / "plain", [ends() | layer(0)])
    (plain / "sub").mkdir()
    (plain / "sub/extra.json").write_text("{}")
    for number, path in enumerate(sorted(one for one in plain.rglob("*") if one.is_file())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    (tmp_path / "current").symlink_to(snapshot)  # a person may name the folder by a link of their own
    for folder in (snapshot, tmp_path / "current"):
        found = FolderOrigin(FolderSource(folder)).files(None)
        assert [(one.path, one.size) for one in found] == [
            (one.path, one.size) for one in FolderOrigin(FolderSource(plain)).files(None)
        ]
        assert make_plan(prepare(FolderFiles(folder), QuantizeParameters(), {})).linear_layers == 7
    settings = StepSettings(cache=tmp_path / "cache")
    assert (
        push_folder(snapshot, f"oci:{tmp_path}/a", settings).digest
        == push_folder(plain, f"oci:{tmp_path}/b", settings).digest
    )


def test_links_within_and_hard_links_are_files(folder: Path) -> None:
    """With the bytes of what they lead to."""
    (folder / "sub").mkdir()
    (folder / "sub/one.json").symlink_to("../tokenizer.json")
    (folder / "two.json").symlink_to(folder / "sub/one.json")
    os.link(folder / "tokenizer.json", folder / "three.json")
    origin = FolderOrigin(FolderSource(folder))
    sizes = {file.path: file.size for file in origin.files(None)}
    assert sizes["sub/one.json"] == sizes["two.json"] == sizes["three.json"] == 2
    with origin.open(Remote("two.json", 2), 1, 2) as (start, pieces):
        assert (start, b"".join(pieces)) == (1, b"}")


def test_hidden_files_are_passed_over(folder: Path) -> None:
    """Whatever they are: nothing of them is taken."""
    (folder / ".git").mkdir()
    (folder / ".git/link").symlink_to("/etc/passwd")
    (folder / ".env").symlink_to("/etc/passwd")
    assert not [file for file in FolderOrigin(FolderSource(folder)).files(None) if "." in file.path[:1]]
    prepare(FolderFiles(folder), QuantizeParameters(), {})


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        FolderOrigin(FolderSource(tmp_path / "none")).files(None)
    with pytest.raises(BadInput, match="is not a folder"):
        SourceFolder(tmp_path / "none")
