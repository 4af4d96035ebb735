"""Nobody passes an image whose mounted tree is another one than its layers say, and everybody passes honest ones."""

from __future__ import annotations

import os
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput
from containers.events import Reporter
from containers.oci.access import open_repository
from containers.oci.base import image_base
from containers.oci.lint import lint
from containers.oci.mounted import check_mounted, tree_of
from containers.oci.push_cache import PushCache
from containers.oci.repository import image as image_of
from containers.oci.tree import merged_tree
from containers.oci.unpack import unpack
from containers.oci.verify import verify
from containers.serve.models import unpacked
from containers.step import Context
from flows.targets.description import DeploymentRequest, describe
from infra.settings import Settings
from tests.support.attacks import ATTACKS, CONFIGURATION, HONEST, WEIGHTS, entry, image, model, opened, tar, tools
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REQUEST = StepRequest(step=Step.SERVE, run="test")
_ON_A_CPU = DeploymentRequest(name="m", gpu="cpu", max_model_len=64)
_TREE = {"tree", "consistent"}  # the rules of lint that say it


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    return Context(settings, Reporter(StringIO(), structured=True), tmp_path / "scratch", tmp_path / "result.json")


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_passes_an_attack(tmp_path: Path, context: Context, attack: str) -> None:
    """`lint`, `verify`, `unpack`, a deployment and a server refuse it, and nothing is left to be served."""
    settings = context.settings
    reference = ATTACKS[attack](tmp_path / "car")
    wrong = [one for one in lint(reference, settings) if one.level == "error" and one.rule in _TREE]
    assert wrong
    assert "sha256:" in wrong[0].message or "volume" in attack
    differences = verify(reference, settings, PushCache(None)).differences
    assert differences
    assert any("sha256:" in one.message for one in differences) or "volume" in attack
    with pytest.raises(BadInput) as unpacking:
        unpack(reference, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()
    with pytest.raises(BadInput) as deploying:
        describe(reference, _ON_A_CPU, settings)
    with pytest.raises(BadInput), unpacked(reference, _REQUEST, context):
        pass
    with pytest.raises(BadInput):
        check_mounted(reference, settings)
    for one in (unpacking, deploying):
        assert "is not a modelcar" in one.value.message or "is not a tar" in one.value.message


@pytest.mark.parametrize("name", HONEST)
def test_everybody_passes_an_honest_image(tmp_path: Path, context: Context, name: str) -> None:
    """The same readers, for what packagers and builders write."""
    reference = HONEST[name](tmp_path / "car")
    assert not [one for one in lint(reference, context.settings) if one.level == "error"]
    found = [
        one for one in verify(reference, context.settings, PushCache(None)).differences if one.path != "extra.json"
    ]
    assert not found
    check_mounted(reference, context.settings)
    with unpacked(reference, _REQUEST, context) as folder:
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_ours_passes(tmp_path: Path, context: Context) -> None:
    """What we push ourselves, long names and several layers included."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "config.json").write_bytes(CONFIGURATION)
    (checkpoint / ("n" * 200)).mkdir()
    (checkpoint / ("n" * 200) / "deep.json").write_text("{}")
    reference = f"oci:{tmp_path}/car@{push_folder(checkpoint, f'oci:{tmp_path}/car', context.settings).digest}"
    describe(reference, _ON_A_CPU, context.settings)
    assert verify(reference, context.settings, PushCache(None), against=str(checkpoint)).ok


@pytest.mark.parametrize(
    ("path", "kind"),
    [("models/a.json", "a link"), ("models", "a link to a folder"), ("models/pipe", "a pipe")],
)
def test_a_mounted_tree_is_looked_at(tmp_path: Path, context: Context, path: str, kind: str) -> None:
    """A server beside a modelcar looks at what the engine mounted, whatever the layers were said to be."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/config.json").write_text("{}")
    if kind != "a link to a folder":
        (tmp_path / "models").mkdir()
        (tmp_path / "models/config.json").write_text("{}")
    if kind == "a pipe":
        os.mkfifo(tmp_path / path)
    else:
        (tmp_path / path).symlink_to(tmp_path / "evil")
    with (
        pytest.raises(BadInput, match="neither a file nor a folder"),
        unpacked("", _REQUEST, context, tmp_path / "models"),
    ):
        pass


def test_a_mounted_tree_of_plain_files(tmp_path: Path, context: Context) -> None:
    """Sub-folders included."""
    models = write_checkpoint(tmp_path / "models")
    with unpacked("", _REQUEST, context, models) as folder:
        assert folder == models


def test_weights_are_not_read_for_headers(tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large uncompressed layer only its beginning and its end are asked for."""
    big = tar(entry("models/", b"5"), entry("models/big.safetensors", content=bytes(32 << 20)), entry("models/z.json"))
    reference = image(tmp_path / "car", tools(), model(), big)
    read = 0
    with open_repository(reference, context.settings) as repository:
        whole = repository.read_blob

        class Counted:
            reference = repository.reference

            def read_blob(self, digest: object, offset: int = 0) -> object:
                @contextmanager
                def counted() -> Iterator[Iterator[bytes]]:
                    def each(chunks: Iterator[bytes]) -> Iterator[bytes]:
                        nonlocal read
                        for chunk in chunks:
                            read += len(chunk)
                            yield chunk

                    with whole(digest, offset) as chunks:  # type: ignore[arg-type]
                        yield each(chunks)

                return counted()

        tree = tree_of(Counted(), image_of(repository, repository.reference.what)[1])  # type: ignore[arg-type]
    assert tree.models["big.safetensors"] == 32 << 20
    assert not tree.faults
    assert read < 4 << 20


def test_layers_are_merged_as_overlay_does() -> None:
    """Overrides, whiteouts before and after what they concern, opaque folders, links that become folders."""
    layers = [
        tar(entry("a/x"), entry("a/y"), entry("b", b"2", "a"), entry("c/d/e"), entry("f")),
        tar(entry("a/new"), entry("a/.wh..wh..opq"), entry("b/z"), entry(".wh.c"), entry("f/g")),
        tar(entry("c/.wh.q"), entry("c/h", content=b"four"), entry("a/.wh.new"), entry("i", b"1", "c/h")),
    ]
    with_digests = []
    for number, layer in enumerate(layers):
        with opened(layer) as one:
            with_digests.append((Digest.of(bytes([number])), tuple(one)))
    tree = merged_tree(with_digests)
    assert not tree.faults
    assert {path: node.kind for path, node in tree.nodes.items()} == {
        "a": "folder", "b": "folder", "b/z": "file", "f": "folder", "f/g": "file", "c": "folder", "c/h": "file", "i": "file",
    }  # fmt: skip
    assert tree.nodes["i"].size == len(b"four")


@pytest.mark.parametrize(
    "member", [entry("models", b"2", "evil"), entry("models/config.json")], ids=["a link", "a file of its own"]
)
def test_a_base_with_models(tmp_path: Path, member: bytes) -> None:
    """A base cannot bring a model, or a link to one, under ours."""
    reference = image(tmp_path / "base", tools(), tar(member))
    with open_repository(reference, Settings()) as repository, pytest.raises(BadInput, match="base"):
        image_base(repository, "linux/amd64")
