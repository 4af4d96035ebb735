"""What is unpacked is verified first, and nothing in an image can write outside the folder."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci.access import open_repository
from containers.oci.repository import Blob
from containers.oci.types import CONFIG, MANIFEST, Descriptor, ImageConfig, ImageManifest, RootFs
from containers.oci.unpack import unpack
from containers.settings import StepSettings
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

TAR = "application/vnd.oci.image.layer.v1.tar"


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x"
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def _image(layout: Path, *layers: bytes, media_type: str = TAR, diff: bytes | None = None) -> str:
    """An image of those layers in a layout, made by hand."""
    with open_repository(f"oci:{layout}", StepSettings()) as repository:
        for layer in layers:
            repository.put_blob(Blob.of(layer), lambda _: None)
        ids = tuple(Digest.of(diff if diff is not None else layer) for layer in layers)
        config = ImageConfig(architecture="amd64", os="linux", rootfs=RootFs(diff_ids=ids)).encode()
        repository.put_blob(Blob.of(config), lambda _: None)
        manifest = ImageManifest(
            config=Descriptor(media_type=CONFIG, digest=Digest.of(config), size=len(config)),
            layers=tuple(Descriptor(media_type=media_type, digest=Digest.of(one), size=len(one)) for one in layers),
        )
        return f"oci:{layout}@{repository.put(manifest.encode(), MANIFEST)}"


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (_member("models/../../evil"), "leaves the checkpoint"),
        (_member("/models/../evil"), "leaves the checkpoint"),
        (_member("models/link", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (_member("models/link", tarfile.LNKTYPE, "models/config.json"), "neither a file nor a folder"),
        (_member("models/device", tarfile.CHRTYPE), "neither a file nor a folder"),
        (_member("models/pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (_member("models/.wh.config.json"), "deletes"),
        (_member("models/" + "n" * 300), "too long"),
    ],
    ids=lambda value: value[0].name[:24] if isinstance(value, tuple) else "",
)
def test_unsafe_members(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], says: str) -> None:
    """Each is refused, and neither the folder nor anything beside it appears."""
    reference = _image(tmp_path / "car", _tar(_member("models/config.json"), member))
    with pytest.raises(BadInput, match=says):
        unpack(reference, tmp_path / "out" / "model", StepSettings())
    assert not (tmp_path / "out" / "model").exists()
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out" / "evil").exists()


def test_gzip_and_prefixes(tmp_path: Path) -> None:
    """Foreign modelcars: gzip layers, names with ./ in front, files outside /models, a later layer that overwrites."""
    plain = _tar(_member("./models/a.txt", content=b"one"), _member("etc/passwd"), _member("./models/b/c.txt"))
    reference = _image(tmp_path / "car", gzip.compress(plain), media_type=f"{TAR}+gzip", diff=plain)
    unpack(reference, tmp_path / "model", StepSettings())
    assert sorted(str(one.relative_to(tmp_path / "model")) for one in (tmp_path / "model").rglob("*")) == [
        "a.txt",
        "b",
        "b/c.txt",
    ]


def test_wrong_diff_id(tmp_path: Path) -> None:
    """A gzip layer that does not unpack to its diff id is refused."""
    plain = _tar(_member("models/a.txt"))
    reference = _image(tmp_path / "car", gzip.compress(plain), media_type=f"{TAR}+gzip", diff=b"another")
    with pytest.raises(BadInput, match="diff id"):
        unpack(reference, tmp_path / "model", StepSettings())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("layer", "media_type", "says"),
    [
        (b"not a tar" * 200, TAR, "is not a tar"),
        (b"not gzip", f"{TAR}+gzip", "not valid gzip"),
        (b"\x28\xb5\x2f\xfd", f"{TAR}+zstd", "only plain tar and gzip"),
        (_tar(_member("etc/passwd")), TAR, "nothing under /models"),
    ],
)
def test_no_modelcar(tmp_path: Path, layer: bytes, media_type: str, says: str) -> None:
    """What cannot be read, or has no model, is one message."""
    reference = _image(tmp_path / "car", layer, media_type=media_type, diff=layer)
    with pytest.raises(BadInput, match=says):
        unpack(reference, tmp_path / "model", StepSettings())
    assert not (tmp_path / "model").exists()


def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    """A flipped bit in a layer is found before anything appears; the repaired layer alone is read again."""
    settings = StepSettings(cache=tmp_path / "cache")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    pushed = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    blob = max((tmp_path / "car/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    with pytest.raises(BadInput, match="other bytes than"):
        unpack(f"oci:{tmp_path}/car@{pushed.digest}", tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()
    blob.write_bytes(content)
    read: list[int] = []
    unpack(f"oci:{tmp_path}/car@{pushed.digest}", tmp_path / "model", settings, on_bytes=read.append)
    assert sum(read) < sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    for path in checkpoint.rglob("*"):
        if path.is_file():
            assert (tmp_path / "model" / path.relative_to(checkpoint)).read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".model.*.partial"))


def test_another_image_takes_its_place(tmp_path: Path) -> None:
    """A folder that holds another image is replaced as a whole."""
    settings = StepSettings(cache=tmp_path / "cache")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    first = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    unpack(f"oci:{tmp_path}/car@{first.digest}", tmp_path / "model", settings)
    (checkpoint / "LICENSE").unlink()
    second = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    unpack(f"oci:{tmp_path}/car@{second.digest}", tmp_path / "model", settings)
    assert not (tmp_path / "model/LICENSE").exists()
    assert (tmp_path / "model/config.json").exists()
