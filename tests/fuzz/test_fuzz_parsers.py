"""Every parser of foreign bytes gives a value or a BadInput or Temporary error, whatever it is given.

A few examples each in a test run; `make fuzz` tries as many as it is told to. What it finds becomes a test of its own in the
unit tests of the parser.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import given
from hypothesis import strategies as st

from containers.checkpoint_files import weight_map
from containers.digest import Digest
from containers.download.checks import licence
from containers.download.hub import listed
from containers.errors import BadInput, Temporary
from containers.evaluate.client import Streamed, take_line
from containers.foreign_json import CONFIGURATION, parse_json, parse_object
from containers.oci import referrers
from containers.oci.access import open_repository
from containers.oci.card import render
from containers.oci.headers import HeaderBudget, members, open_tar
from containers.oci.inflate import inflated
from containers.oci.mounted import tree_from
from containers.oci.tree import model_fault
from containers.oci.types import CONFIG, MANIFEST, Descriptor, ImageConfig, ImageManifest, parse_manifest, parse_tags
from containers.oci.validate import ChunkReader, check_image, listed_files
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.plan import make_plan
from containers.quantize.preflight import prepare
from containers.safetensors import read_header
from containers.settings import StepSettings
from flows.targets.model import facts
from flows.watching.listing import read_page
from tests.fuzz.strategies import DIGEST, VALUES, damaged, spoiled, texts
from tests.support.attacks import CONFIGURATION as CONFIGURATION_TEXT
from tests.support.attacks import TAR, WEIGHTS, changed, entry, extended, pax, tar
from tests.support.checkpoints import ends, header, layer, write

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPECTED: Final = (BadInput, Temporary)

_TENSORS = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]},
    "c": {"dtype": "U8", "shape": [0, 5], "data_offsets": [10, 10]},
}
_INDEX = {
    "metadata": {"total_size": 10},
    "weight_map": {"a.weight": "model-1.safetensors", "b": "sub/model-2.safetensors"},
}
_CONFIG = json.loads(CONFIGURATION_TEXT) | {
    "quantization_config": {"format": "float-quantized", "quant_method": "x", "ignore": ["a"], "kv_cache_scheme": {"num_bits": 8}},
    "text_config": {"hidden_size": 64, "layer_types": ["full_attention"], "sliding_window": 4, "kv_lora_rank": 8},
    "torch_dtype": "bfloat16",
}  # fmt: skip
_BLOB = {"mediaType": TAR, "digest": DIGEST, "size": 1024}
_FILES = {"dev.carwright.files": json.dumps([["a", 1, DIGEST], ["b/c", 2, DIGEST]])}
_MANIFEST = {
    "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "x", "config": _BLOB | {"mediaType": CONFIG},
    "layers": [_BLOB | {"annotations": _FILES}, _BLOB], "subject": _BLOB,
    "annotations": {"a": "b", referrers.SEQUENCE: "3"},
}  # fmt: skip
_IMAGE_INDEX = {
    "schemaVersion": 2, "annotations": {},
    "manifests": [_BLOB | {"mediaType": MANIFEST, "platform": {"os": "linux", "architecture": "amd64"}}, _BLOB],
}  # fmt: skip
_IMAGE_CONFIG = {
    "architecture": "amd64", "os": "linux", "created": "x", "config": {"User": "1", "Env": ["A=b"], "Volumes": {"/models": {}}},
    "rootfs": {"type": "layers", "diff_ids": [DIGEST, DIGEST]}, "history": [{"created_by": "x"}, {"empty_layer": True}],
}  # fmt: skip
_LISTING = [
    {"type": "file", "path": "config.json", "size": 5, "oid": "0" * 40},
    {
        "type": "file",
        "path": "a.safetensors",
        "size": 5,
        "oid": "1",
        "lfs": {"oid": "0" * 64, "size": 9, "pointerSize": 1},
    },
    {"type": "directory", "path": "sub", "oid": "2", "size": 0},
]
_EVENT = {"choices": [{"text": "a", "delta": {"content": "b"}, "finish_reason": "stop"}], "usage": {"total_tokens": 2}}


@given(texts(_TENSORS), st.integers(-20, 20))
def test_safetensors_header(text: bytes, off: int) -> None:
    front = len(text).to_bytes(8, "little") + text
    for file, size in ((front + bytes(10), len(front) + 10), (front, max(0, len(front) + off)), (text, len(text))):
        with suppress(*EXPECTED):
            read = read_header(io.BytesIO(file), "x", size)
            assert read.size == size
            assert all(tensor.name.isprintable() for tensor in read.tensors)


@given(damaged(st.just(WEIGHTS)))
def test_safetensors_file(content: bytes) -> None:
    with suppress(*EXPECTED):
        assert read_header(io.BytesIO(content), "x", len(content)).size == len(content)


@given(texts(_INDEX))
def test_index(text: bytes) -> None:
    with suppress(*EXPECTED):
        assert all(isinstance(shard, str) for shard in weight_map(text, "x").values())


@given(texts(_CONFIG))
def test_config(text: bytes) -> None:
    with suppress(*EXPECTED):
        config = parse_object(text, "x", CONFIGURATION)
        assert render(config, [], {}).endswith(b"\n")
        facts(config, 1000, "x")


@given(spoiled(_CONFIG))
def test_config_of_odd_types(config: Any) -> None:
    if isinstance(config, dict):
        render(config, [], {})
        with suppress(*EXPECTED):
            facts(config, 1000, "x")


@given(spoiled(json.loads(header(ends() | layer(0))[0][8:])), spoiled({"architectures": ["x"], "hidden_size": 32}))
def test_checkpoint(tensors: Any, config: Any) -> None:
    """The plan of a quantization of what is in a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), [ends() | layer(0)], sparse=True)
        text = json.dumps(tensors).encode("utf-8", "surrogatepass")
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + header(ends() | layer(0))[1])
        (folder / "config.json").write_bytes(json.dumps(config).encode())
        with suppress(*EXPECTED):
            make_plan(prepare(FolderFiles(folder), QuantizeParameters(), {}))


@given(damaged(st.sampled_from([b"---\nlicense: mit\nlicense_name: x\n---\n# x", b"# x", b"---\n"])))
def test_front_matter(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "README.md").write_bytes(text)
        found = licence(Path(name))
        assert found is None or len(found) <= 100


@given(VALUES.map(json.dumps) | st.text(), st.booleans())
def test_any_json(text: str, whole: bool) -> None:
    """What Python's own parser takes is taken or refused, and never read otherwise."""
    with suppress(*EXPECTED):
        assert parse_json(text if whole else text.encode("utf-8", "surrogatepass"), "x") == json.loads(text)


_NAMES = st.sampled_from(
    ["models/", "models", "models/a.bin", "usr/x", "way", "way/a", ".wh.models", "models/.wh..wh..opq", "../x"]
)
_TARGETS = st.sampled_from(["models", "/models/a.bin", "..", "way", "a" * 200, "../" * 30])
_KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"\0", b"Z"]
)
_RECORDS = st.dictionaries(
    st.sampled_from(["path", "linkpath", "size", "mtime", "comment", "hdrcharset", "SCHILY.xattr.a", "GNU.sparse.size"]),
    st.sampled_from(["", "x", "1", "-1", "9" * 20, "models/a.bin", "nan", "BINARY"]), max_size=3,
)  # fmt: skip


@st.composite
def _layers(draw: st.DrawFn) -> bytes:
    parts: list[bytes] = []
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.integers(0, 3)) == 0:
            kind = draw(
                st.sampled_from([tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
            )
            said = (
                pax(**draw(_RECORDS)) if kind in {tarfile.XHDTYPE, tarfile.XGLTYPE} else draw(_NAMES).encode() + b"\0"
            )
            parts.append(extended(kind, said))
        member = entry(draw(_NAMES), draw(_KINDS), draw(_TARGETS), b"x" * draw(st.sampled_from([0, 1, 600])))
        if draw(st.integers(0, 4)) == 0:
            at = draw(st.sampled_from([0, 100, 108, 124, 136, 148, 156, 157, 257, 345, 482]))
            member = changed(
                member, at, draw(st.sampled_from([b"\xff" * 12, b"\x80" + b"\xff" * 11, b"0000001000\0", b"S", b"\0"]))
            )
        parts.append(member)
    return tar(*parts, end=draw(st.sampled_from([bytes(1024), bytes(512), b"", bytes(4096), b"\1" * 512])))


@given(st.lists(damaged(_layers()), min_size=1, max_size=3))
def test_tar_layers(layers: list[bytes]) -> None:
    """Read in a stream and by seeking, both see the same members; and the tree that they make."""
    manifest = ImageManifest(
        config=Descriptor.model_validate(_BLOB),
        layers=tuple(Descriptor(media_type=TAR, digest=Digest.of(one), size=len(one)) for one in layers),
    )
    read = []
    for content in layers:
        seen = []
        for mode in ("r|", "r:"):
            try:
                with open_tar(ChunkReader(_chunks(content)) if mode == "r|" else io.BytesIO(content), mode) as one:
                    found = tuple(members(one, len(content), HeaderBudget()))
                seen.append([(member.name, member.type, member.size, member.linkname) for member in found])
            except tarfile.TarError:
                seen.append(None)
        assert seen[0] == seen[1]
        if seen[0] is None:
            return
        assert sum(size for _, kind, size, _ in seen[0]) <= len(content)
        read.append(found)
    for one in read:
        for member in one:
            model_fault(member)
    with suppress(*EXPECTED):
        assert all(fault.message for fault in tree_from(manifest, None, read).faults)


@given(damaged(_layers().map(lambda layer: gzip.compress(layer, mtime=0)) | st.binary()), st.integers(1, 3000))
def test_gzip(content: bytes, step: int) -> None:
    """However it comes in pieces, the same is inflated, or the same is refused."""
    descriptor = Descriptor(media_type=f"{TAR}+gzip", digest=Digest.of(content), size=len(content))
    results = []
    for pieces in (_chunks(content, step), iter([content])):
        try:
            results.append(b"".join(inflated(pieces, descriptor)))
        except BadInput:
            results.append(None)
    assert results[0] == results[1]


def _chunks(content: bytes, step: int = 700) -> Iterator[bytes]:
    return (content[at : at + step] for at in range(0, len(content), step))


@given(texts(_MANIFEST) | texts(_IMAGE_INDEX), texts(_IMAGE_CONFIG))
def test_manifests_and_configurations(text: bytes, configuration: bytes) -> None:
    with suppress(*EXPECTED):
        parse_tags(text, "x")
    with suppress(*EXPECTED):
        ImageConfig.parse(configuration, "x").encode()
    with suppress(*EXPECTED):
        manifest = parse_manifest(text, "x")
        assert parse_manifest(manifest.encode(), "x").encode() == manifest.encode()
        if isinstance(manifest, ImageManifest):
            config = Descriptor(media_type=CONFIG, digest=Digest.of(configuration), size=len(configuration))
            check_image(manifest.model_copy(update={"config": config}), configuration)


@given(texts([["a", 1, DIGEST], ["b/c", 2, DIGEST]]))
def test_lists_of_files(text: bytes) -> None:
    told = {"dev.carwright.files": text.decode(errors="replace")}
    with suppress(*EXPECTED):
        listed_files(Descriptor(media_type=TAR, digest=Digest.of(b""), size=1, annotations=told))


@given(texts(_IMAGE_INDEX), texts(_MANIFEST))
def test_a_layout_and_its_referrers(index: bytes, manifest: bytes) -> None:
    """A folder that somebody else made: its index, its manifests, and what they refer to."""
    digest = Digest.of(manifest)
    with tempfile.TemporaryDirectory() as name:
        blobs = Path(name) / "blobs/sha256"
        blobs.mkdir(parents=True)
        (blobs / digest.hex).write_bytes(manifest)
        (Path(name) / "index.json").write_bytes(index.replace(DIGEST.encode(), str(digest).encode()))
        with open_repository(f"oci:{name}", StepSettings()) as repository:
            for ask in (
                repository.tags,
                lambda: repository.get("x"),
                lambda: repository.get(str(digest)),
                lambda: repository.referrers(Digest.parse(DIGEST)),
                lambda: referrers.newest(repository, Digest.parse(DIGEST), "x"),
                lambda: [referrers.fetch(repository, one) for one in repository.referrers(Digest.parse(DIGEST))],
            ):
                with suppress(*EXPECTED):
                    ask()


@given(texts(_LISTING))
def test_hub_listing(text: bytes) -> None:
    """As `watch` reads it, and as `download` does."""
    with suppress(*EXPECTED):
        assert all(isinstance(one, str) for pair in read_page(text, "http://hub").items() for one in pair)
    with suppress(*EXPECTED):
        for file in listed(text, "http://hub"):
            assert file.size >= 0


@given(st.lists(texts(_EVENT).map(lambda text: "data: " + text.decode(errors="replace")) | st.text(), max_size=4))
def test_event_stream(lines: list[str]) -> None:
    streamed = Streamed()
    with suppress(*EXPECTED):
        for line in lines:
            if take_line(streamed, line, 1.0):
                break
    assert isinstance(streamed.text, str)
    assert isinstance(streamed.finish_reason, str)
    assert all(type(count) is int for count in streamed.usage.values())
    assert (streamed.chunks > 0) == (not math.isnan(streamed.first_token))
