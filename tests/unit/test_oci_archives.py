"""Layers that would cost gigabytes or hours: refused alike by all who read one, and nothing of them is written."""

from __future__ import annotations

import gzip
import io
import resource
import subprocess
import sys
import tarfile
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.oci import headers
from containers.oci.access import open_repository
from containers.oci.files import read_model_file
from containers.oci.inflate import inflated
from containers.oci.layer import Layer, LayerFile, check_path
from containers.oci.lint import lint
from containers.oci.mounted import check_mounted
from containers.oci.push_cache import PushCache
from containers.oci.repository import Blob
from containers.oci.repository import image as image_of
from containers.oci.tree import Effort, merged_tree
from containers.oci.types import CONFIG, MANIFEST, Descriptor, ImageConfig, ImageManifest, RootFs
from containers.oci.unpack import unpack
from containers.oci.validate import listed_files
from containers.oci.verify import verify
from infra.settings import Settings
from tests.support.attacks import TAR, changed, entry, extended, image, model, pax, tar, tools

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_GZIP = f"{TAR}+gzip"
_PAX, _ALL = tarfile.XHDTYPE, tarfile.XGLTYPE
_LONG, _LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_FILE = "models/a.bin"


def _said(size: bytes, name: str = _FILE) -> bytes:
    """A file whose header says another size than what follows."""
    return changed(entry(name, content=b""), 124, size)


def _binary(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def _sparse(name: str) -> bytes:
    """GNU's old form: a block of data at the end of a tebibyte."""
    header = changed(entry(name, tarfile.GNUTYPE_SPARSE, content=b""), 386, b"%011o\0%011o\0" % ((1 << 40) - 512, 512))
    return changed(changed(header, 483, _binary(1 << 40)), 124, b"00000001000\0") + bytes(512)


_SPARSE_PAX = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}


def _one(*members: bytes) -> Callable[[Path], str]:
    """An image with one more layer, as it is and not compressed."""
    return lambda layout: image(layout, tools(), model(), tar(*members))


def squeezed(layout: Path, blob: bytes, plain: bytes | None = None, media_type: str = _GZIP) -> str:
    """An image whose last layer is this blob; `plain` is what its diff id is of."""
    stored = [tools(), model(), blob]
    ids = [Digest.of(one) for one in (*stored[:2], blob if plain is None else plain)]
    with open_repository(f"oci:{layout}", Settings()) as repository:
        config = ImageConfig(architecture="amd64", os="linux", rootfs=RootFs(diff_ids=tuple(ids))).encode()
        for one in (*stored, config):
            repository.put_blob(Blob.of(one), lambda _: None)
        manifest = ImageManifest(
            config=Descriptor(media_type=CONFIG, digest=Digest.of(config), size=len(config)),
            layers=tuple(
                Descriptor(media_type=kind, digest=Digest.of(one), size=len(one))
                for kind, one in zip((TAR, TAR, media_type), stored, strict=True)
            ),
        )
        return f"oci:{layout}@{repository.put(manifest.encode(), MANIFEST)}"


def bomb(size: int) -> bytes:
    """A tar with a file of zeros under /models, deflated a thousand times smaller, without making it whole."""
    header = changed(entry(_FILE, content=b""), 124, _binary(size))
    return gzip.compress(header) + gzip.compress(bytes(16 << 20)) * (size >> 24) + gzip.compress(bytes(1024))


_HONEST_LAYER = tar(entry("models/", tarfile.DIRTYPE), entry(_FILE))
_PACKED = gzip.compress(_HONEST_LAYER, mtime=0)

ATTACKS: dict[str, Callable[[Path], str]] = {
    "a sparse file of a tebibyte": _one(_sparse(_FILE)),
    "a sparse file elsewhere": _one(_sparse("usr/lib/x")),
    "a sparse file by its records": _one(extended(_PAX, pax(**_SPARSE_PAX)), entry(_FILE, content=b"1\n0\n512\n" + bytes(504))),
    "a sparse file by older records": _one(
        extended(_PAX, pax(**{"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"})),
        entry("usr/x"),
    ),
    "sparse headers without end": _one(
        changed(entry("usr/x", tarfile.GNUTYPE_SPARSE, content=b""), 482, b"\1"), *(bytes(504) + b"\1" + bytes(7),) * 9
    ),
    "a size of a tebibyte": _one(_said(_binary(1 << 40))),
    "a size of 88 bits": _one(_said(b"\x80" + b"\xff" * 11)),
    "a size of 88 bits elsewhere": _one(_said(b"\x80" + b"\xff" * 11, "usr/x")),
    "a negative size": _one(_said(b"\xff" * 12)),
    "a negative size of one bit": _one(_said(b"\xff" + b"\xff" * 10 + b"\xfe")),
    "a size that is no number": _one(_said(b"12 34 56 7 8")),
    "a size with a sign": _one(_said(b"-00000000001")),
    "a size in hexadecimal": _one(_said(b"0x0000000010")),
    "a size of nine gigabytes in octal": _one(_said(b"777777777777")),
    "a negative size by a record": _one(extended(_PAX, pax(size="-1536")), entry(_FILE)),
    "a negative size that goes round": _one(extended(_PAX, pax(size="-2048")), entry("usr/x")),
    "a size with a sign by a record": _one(extended(_PAX, pax(size="+1")), entry(_FILE)),
    "a size with a blank by a record": _one(extended(_PAX, pax(size=" 1")), entry(_FILE)),
    "a size with an underscore by a record": _one(extended(_PAX, pax(size="0_1")), entry(_FILE)),
    "a size of a tebibyte by a record": _one(extended(_PAX, pax(size=str(1 << 40))), entry(_FILE)),
    "a size of twenty digits by a record": _one(extended(_PAX, pax(size="9" * 20)), entry(_FILE)),
    "a size of five thousand digits": _one(extended(_PAX, pax(size="9" * 5000)), entry(_FILE)),
    "a long name of gigabytes": _one(changed(extended(_LONG, b"a"), 124, b"07777777777\0"), entry(_FILE)),
    "a long link of gigabytes": _one(changed(extended(_LINK, b"a"), 124, _binary(1 << 40)), entry(_FILE)),
    "records of gigabytes": _one(changed(extended(_PAX, b"a"), 124, b"07777777777\0"), entry(_FILE)),
    "records of 88 bits": _one(changed(extended(_PAX, b"a"), 124, b"\x80" + b"\xff" * 11), entry(_FILE)),
    "records for all of gigabytes": _one(changed(extended(_ALL, b"a"), 124, b"07777777777\0"), entry(_FILE)),
    "records that are digits alone": _one(extended(_PAX, b"1" * (1 << 20)), entry(_FILE)),
    "a record whose value is digits alone": _one(extended(_PAX, pax(comment="1" * 500_000)), entry(_FILE)),
    "records without a sign": _one(extended(_PAX, b"4 a\n" * 200_000), entry(_FILE)),
    "a record longer than all": _one(extended(_PAX, b"999 path=a\n"), entry(_FILE)),
    "a record of length nothing": _one(extended(_PAX, b"0 path=a\n"), entry(_FILE)),
    "a record without a length": _one(extended(_PAX, b"path=a\n"), entry(_FILE)),
    "a record without a name": _one(extended(_PAX, b"5 =a\n"), entry(_FILE)),
    "a record without an end": _one(extended(_PAX, b"10 path=ab"), entry(_FILE)),
    "records in another encoding": _one(extended(_PAX, pax(hdrcharset="BINARY", path=_FILE)), entry("usr/x")),
    "two thousand headers for all": _one(*(extended(_ALL, pax(comment="x")),) * 2000, entry(_FILE)),
    "a thousand long names": _one(*(extended(_LONG, b"usr/x\0"),) * 1000, entry(_FILE)),
    "a name of a megabyte": _one(extended(_LONG, b"a" * 1_000_000 + b"\0"), entry("usr/x")),
    "half a million folders in a name": _one(extended(_LONG, b"a/" * 500_000 + b"\0"), entry("usr/x")),
    "half a million folders in a link": _one(extended(_LINK, b"../" * 300_000 + b"\0"), entry("usr/x", tarfile.SYMTYPE, "x")),
    "a checksum that is off": _one(entry(_FILE)[:148] + b"0000000\0" + entry(_FILE)[156:]),
    "a header that breaks off": lambda layout: image(layout, tools(), model(), entry(_FILE)[:300]),
    "contents that break off": lambda layout: image(layout, tools(), model(), entry(_FILE, content=bytes(5000))[:1024]),
    "something behind the end": _one(entry(_FILE), bytes(1024), b"something" + bytes(503)),
    "a gzip bomb": lambda layout: squeezed(layout, bomb(256 << 20)),
    "a gzip bomb behind the end": lambda layout: squeezed(layout, gzip.compress(_HONEST_LAYER + bytes(128 << 20))),
    "a gzip bomb in its second member": lambda layout: squeezed(
        layout, gzip.compress(_HONEST_LAYER) + gzip.compress(bytes(128 << 20))
    ),
    "many small bombs": lambda layout: squeezed(layout, gzip.compress(bytes(4 << 20)) * 64),
    "gzip that breaks off": lambda layout: squeezed(layout, _PACKED[:-20], _HONEST_LAYER),
    "gzip without its checksum": lambda layout: squeezed(layout, _PACKED[:-8], _HONEST_LAYER),
    "gzip with another checksum": lambda layout: squeezed(layout, _PACKED[:-8] + bytes(8), _HONEST_LAYER),
    "gzip with something behind it": lambda layout: squeezed(layout, _PACKED + b"something", _HONEST_LAYER),
    "gzip with a member that breaks off": lambda layout: squeezed(layout, _PACKED + _PACKED[:12], _HONEST_LAYER),
    "gzip in gzip": lambda layout: squeezed(layout, gzip.compress(_PACKED), _PACKED),
    "gzip that says it is plain": lambda layout: squeezed(layout, _PACKED, media_type=TAR),
    "plain that says it is gzip": lambda layout: squeezed(layout, _HONEST_LAYER),
    "gzip of nothing": lambda layout: squeezed(layout, b"", b""),
    "deflate without gzip": lambda layout: squeezed(layout, zlib.compress(_HONEST_LAYER), _HONEST_LAYER),
    "zstd": lambda layout: squeezed(layout, b"\x28\xb5\x2f\xfd" + bytes(20), media_type=f"{TAR}+zstd"),
    "another diff id": lambda layout: squeezed(layout, _PACKED, b"another"),
    "more layers than can be mounted": lambda layout: image(layout, tools(), model(), *(tar(entry("a")) for _ in range(500))),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_passes_an_attack(tmp_path: Path, attack: str) -> None:
    """`lint`, `verify`, `unpack` and the check before a deployment or a server refuse it; nothing is there afterwards."""
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    reference = ATTACKS[attack](tmp_path / "car")
    assert [one for one in lint(reference, settings) if one.level == "error" and one.rule in {"tree", "consistent"}]
    with pytest.raises(BadInput):
        check_mounted(reference, settings)
    with pytest.raises(BadInput):
        unpack(reference, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()
    assert not any(path.is_file() and path.name == "a.bin" for path in tmp_path.rglob("*"))
    if attack == "more layers than can be mounted":
        with pytest.raises(BadInput, match="layers"):
            verify(reference, settings, PushCache(None))
    else:
        assert verify(reference, settings, PushCache(None)).differences


_LISTS: dict[str, object] = {
    "no JSON": "[",
    "an object": {"a": 1},
    "a number": 5,
    "texts of three": ["abc"],
    "two of three": [["a", 1]],
    "four of three": [["a", 1, "sha256:" + "0" * 64, 1]],
    "a path that is a number": [[1, 1, "sha256:" + "0" * 64]],
    "a path that leaves": [["../a", 1, "sha256:" + "0" * 64]],
    "a path from the root": [["/a", 1, "sha256:" + "0" * 64]],
    "a path in five hundred folders": [["a/" * 500 + "a", 1, "sha256:" + "0" * 64]],
    "a size that is a text": [["a", "1", "sha256:" + "0" * 64]],
    "a size that is true": [["a", True, "sha256:" + "0" * 64]],
    "a negative size": [["a", -1, "sha256:" + "0" * 64]],
    "a size beyond 64 bits": [["a", 2**63, "sha256:" + "0" * 64]],
    "a digest that is a number": [["a", 1, 1]],
    "a digest that is none": [["a", 1, "sha256:0"]],
    "a deep list": "[" * 5000 + "]" * 5000,
}


@pytest.mark.parametrize("attack", _LISTS)
def test_a_list_of_files_that_is_none(attack: str) -> None:
    """The annotation of a layer is as foreign as the layer."""
    told = _LISTS[attack]
    text = told if isinstance(told, str) else canonical_json(told).decode()
    with pytest.raises(BadInput):
        listed_files(
            Descriptor(media_type=TAR, digest=Digest.of(b""), size=1, annotations={"dev.carwright.files": text})
        )


def test_nothing_beyond_the_list_is_written(tmp_path: Path) -> None:
    """A layer that lists a file of one byte and holds one of a megabyte: the second byte never comes to the disk."""
    layer = tar(entry("models/", tarfile.DIRTYPE), entry(_FILE, content=bytes(1 << 20)))
    reference = image(tmp_path / "car", tools(), model(), layer, lists={2: [("a.bin", 1)]})
    written: list[int] = []
    with pytest.raises(BadInput, match="file list"):
        unpack(reference, tmp_path / "model", Settings(), on_bytes=written.append)
    assert sum(written) < 1 << 20


def test_a_small_file_is_small(tmp_path: Path) -> None:
    """config.json of 40 MB in a compressed layer of some kB is not read into memory."""
    layer = tar(entry("models/", tarfile.DIRTYPE), entry("models/config.json", content=b" " * (40 << 20)))
    with (
        open_repository(image(tmp_path / "car", layer, compress=True), Settings()) as repository,
        pytest.raises(BadInput, match="at most"),
    ):
        read_model_file(repository, image_of(repository, repository.reference.what)[1], "config.json")


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_gzip_members_one_after_the_other(size: int) -> None:
    """As estargz and pigz write them, in pieces of any length."""
    members = [bytes([number]) * size for number in range(5)] + [b"end"]
    packed = b"".join(gzip.compress(one) for one in members)
    layer = Descriptor(media_type=_GZIP, digest=Digest.of(packed), size=len(packed))
    for step in (1, 7, 20_000, len(packed)):
        pieces = (packed[at : at + step] for at in range(0, len(packed), step))
        assert b"".join(inflated(pieces, layer)) == b"".join(members)


def test_pieces_are_never_large() -> None:
    """However much a piece inflates to."""
    packed = gzip.compress(bytes(48 << 20))
    layer = Descriptor(media_type=_GZIP, digest=Digest.of(packed), size=len(packed))
    sizes = [len(one) for one in inflated(iter([packed]), layer)]
    assert sum(sizes) == 48 << 20
    assert max(sizes) <= 1 << 20


_NAMES = st.text(st.sampled_from("ab/ä☃."), min_size=1, max_size=300)


@given(st.lists(st.tuples(_NAMES, st.integers(0, 2**40)), max_size=6))
def test_the_size_of_a_layer_is_that_of_its_tar(files: list[tuple[str, int]]) -> None:
    """Computed, and measured on what is between the contents."""
    kept = []
    for path, size in files:
        try:
            check_path(path)
        except BadInput:
            continue
        kept.append(LayerFile(path, size))
    layer = Layer(tuple(kept))
    assert layer.size == sum(map(len, layer.glue)) + sum(file.size for file in kept)


def _members(layer: bytes) -> tuple[tarfile.TarInfo, ...]:
    with headers.open_tar(io.BytesIO(layer), "r:") as one:
        return tuple(headers.members(one, len(layer), headers.HeaderBudget()))


def test_headers_of_an_image_are_counted() -> None:
    """Layers share one budget, whichever of them spends it."""
    budget = headers.HeaderBudget(3 * 512)
    for _ in range(3):
        with headers.open_tar(io.BytesIO(tar(entry("a"))), "r:") as one:
            assert len(list(headers.members(one, 10_000, budget))) == 1
    with headers.open_tar(io.BytesIO(tar(entry("a"))), "r:") as one, pytest.raises(BadInput, match="file names"):
        list(headers.members(one, 10_000, budget))


# Layers, and the effort that honest ones of their size take many times less of.
TREES: dict[str, tuple[tuple[bytes, ...], Effort]] = {
    "folders that nobody lists": (
        (tar(*(entry(f"{number}/" + "a/" * 80 + "x") for number in range(20))),),
        Effort(nodes=1000),
    ),
    "links that lead through links": (
        (
            tar(
                *(entry(f"l{at}", tarfile.SYMTYPE, f"{'x/../' * 20}l{at + 1}") for at in range(60)),
                *(entry(f"l0/{at}") for at in range(20)),
            ),
        ),
        Effort(steps=20_000),
    ),
    "links in a circle": (
        (
            tar(
                entry("a", tarfile.SYMTYPE, "b/x"),
                entry("b", tarfile.SYMTYPE, "a/y"),
                *(entry(f"a/{at}") for at in range(90)),
            ),
        ),
        Effort(steps=20_000),
    ),
    "whiteouts over many files": (
        (tar(*(entry(f"f{at}") for at in range(400))), *(tar(entry(".wh.x")) for _ in range(300))),
        Effort(steps=20_000),
    ),
}


@pytest.mark.parametrize("attack", TREES)
def test_trees_beyond_counting(attack: str) -> None:
    """Small layers that are hours of work, or gigabytes of folders: it is counted, and told."""
    layers, effort = TREES[attack]
    with pytest.raises(BadInput, match="beyond counting"):
        merged_tree([(Digest.of(bytes([at % 256])), _members(layer)) for at, layer in enumerate(layers)], effort)


@pytest.mark.parametrize("layer", [bomb(4 << 30), gzip.compress(_HONEST_LAYER) + gzip.compress(bytes(32 << 20)) * 128])
def test_a_bomb_stays_within_memory(tmp_path: Path, layer: bytes) -> None:
    """4 GiB of zeros in 4 MB: `verify`, `lint` and `unpack` answer in a process of 700 MB of addresses."""
    reference = squeezed(tmp_path / "car", layer)
    program = (
        "import sys\nfrom pathlib import Path\nfrom containers.errors import BadInput\nfrom infra.settings import Settings\n"
        "from containers.oci.lint import lint\nfrom containers.oci.unpack import unpack\n"
        "from containers.oci.verify import verify\nfrom containers.oci.push_cache import PushCache\n"
        "reference, folder, settings = sys.argv[1], Path(sys.argv[2]), Settings()\n"
        "print(any(one.rule == 'tree' and one.level == 'error' for one in lint(reference, settings)))\n"
        "print(bool(verify(reference, settings, PushCache(None)).differences))\n"
        "try:\n    unpack(reference, folder / 'model', settings)\nexcept BadInput as error:\n    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, reference, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20)),
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["True", "True"]
    assert "bytes, and its layer holds" in said[2] or "inflates to more than" in said[2]
    assert not list(tmp_path.rglob("a.bin"))
