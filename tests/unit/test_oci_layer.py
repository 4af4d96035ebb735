"""A layer's bytes follow from paths, sizes and contents, and nothing else."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.errors import BadInput
from containers.oci.layer import FileLayer, Layer, LayerFile, LayerHasher, check_path

# From GNU tar 1.34 for models/a/b.txt (mode 664, folders 775) that holds "abc", with --format=gnu --numeric-owner
# --owner=0 --group=0 --mtime=@0 --blocking-factor=1 --no-recursion; tests/golden/modelcar.sh has the whole command.
BY_GNU_TAR = "944484d02da09cfe36e83afe889dd3ddc5893bb91631fc6051d5c02ca6d27cac"

_names = st.text(
    st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/"), min_size=1, max_size=80
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)
_contents = st.dictionaries(_paths, st.binary(max_size=2000), min_size=1, max_size=5).filter(
    lambda files: not any(other.startswith(f"{path}/") for path in files for other in files)
)


def _tar(layer: Layer, contents: dict[str, bytes], offset: int = 0) -> bytes:
    return b"".join(layer.chunks(lambda file, at: io.BytesIO(contents[file.path][at:]), offset))


def _layer(contents: dict[str, bytes]) -> Layer:
    return Layer(tuple(LayerFile(path, len(data)) for path, data in contents.items()))


def test_same_bytes_as_gnu_tar() -> None:
    """The layer of one nested file is what GNU tar writes for it."""
    assert hashlib.sha256(_tar(FileLayer("a/b.txt", 3), {"a/b.txt": b"abc"})).hexdigest() == BY_GNU_TAR


@given(_contents)
def test_tarfile_reads_what_was_put_in(contents: dict[str, bytes]) -> None:
    """Python's tarfile finds every file with its content, the fixed owner, modes and time, and every folder first."""
    layer = _layer(contents)
    data = _tar(layer, contents)
    assert len(data) == layer.size
    folders = {"models"}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        read = {}
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            if member.isdir():
                assert member.mode == 0o775
                folders.add(member.name)
            else:
                assert member.mode == 0o664
                assert member.name.rpartition("/")[0] in folders
                file = tar.extractfile(member)
                assert file is not None
                read[member.name.removeprefix("models/")] = file.read()
    assert read == contents


@given(_contents, st.data())
def test_resumes_at_any_byte(contents: dict[str, bytes], data: st.DataObject) -> None:
    """The stream from an offset on is the end of the whole stream."""
    layer = _layer(contents)
    whole = _tar(layer, contents)
    offset = data.draw(st.integers(0, layer.size))
    assert _tar(layer, contents, offset) == whole[offset:]


@given(_contents, st.integers(1, 700))
def test_hasher_agrees_with_the_stream(contents: dict[str, bytes], step: int) -> None:
    """The digest from contents that pass by in any pieces is that of the whole tar."""
    layer = _layer(contents)
    hasher = LayerHasher.of(layer.files)
    stream = b"".join(contents.values())
    for start in range(0, len(stream), step):
        hasher.update(stream[start : start + step])
    assert hasher.digest().hex == hashlib.sha256(_tar(layer, contents)).hexdigest()


def test_sizes_above_8_gib_stay_gnu() -> None:
    """A file of 20 GB has its size in base 256 (GNU), in a single header: no pax record."""
    layer = FileLayer("model.safetensors", 20_000_000_000)
    header = layer.header()
    assert len(header) == 2 * 512  # the folder's and the file's
    assert header[512 + 124 : 512 + 136] == b"\x80" + (20_000_000_000).to_bytes(11, "big")
    assert layer.size == 1024 + 20_000_000_000 + (-20_000_000_000 % 512) + 1024


@pytest.mark.parametrize("size", [4, 2])
def test_a_file_that_changed_is_refused(size: int) -> None:
    """More or fewer bytes than planned are an error and never a longer or padded layer."""
    layer = FileLayer("a", 3)
    with pytest.raises(BadInput, match="changed while it was read"):
        list(layer.chunks(lambda file, at: io.BytesIO(bytes(size))))


def test_hasher_refuses_other_sizes() -> None:
    """Too many or too few bytes are an error."""
    hasher = LayerHasher("a", 3)
    hasher.update(b"ab")
    with pytest.raises(BadInput, match="less than planned"):
        hasher.digest()
    with pytest.raises(BadInput, match="more bytes"):
        hasher.update(b"cd")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        "a\nb",
        "a\x00b",
        "\udcff.bin",
        "n" * 256,
        "a/" * 600 + "b",
    ],
)
def test_unsafe_paths_are_refused(path: str) -> None:
    """What leaves the root, is not UTF-8, or is too long for a file system cannot be in a layer."""
    with pytest.raises(BadInput, match="the file name"):
        check_path(path)
