"""Images whose every digest is right and whose mounted tree is another one, made as OCI layouts; and honest ones beside them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from typing import TYPE_CHECKING, Any

from containers.digest import Digest, canonical_json
from containers.oci.access import open_repository
from containers.oci.repository import Blob
from containers.oci.types import (
    CONFIG,
    MANIFEST,
    Descriptor,
    ImageConfig,
    ImageManifest,
    Index,
    Platform,
    RootFs,
    RunConfig,
)
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

TAR = "application/vnd.oci.image.layer.v1.tar"
_DIR, _LINK, _HARD, _FILE = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE
_HEADER = b'{"weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
WEIGHTS = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(16)
CONFIGURATION = json.dumps(
    {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
).encode()
_CARD = "models/model.safetensors"


def entry(name: str, kind: bytes = _FILE, link: str = "", content: bytes = b"x", **more: Any) -> bytes:
    """One member: its headers and, of a file, its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o775 if kind == _DIR else 0o664
    info.size = len(content) if kind in (_FILE, tarfile.AREGTYPE) else 0
    for key, value in more.items():
        setattr(info, key, value)
    plain = tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT
    body = content + bytes(-len(content) % 512) if info.size else b""
    return info.tobuf(plain, "utf-8", "surrogateescape") + body


def tar(*members: bytes, end: bytes = bytes(1024)) -> bytes:
    return b"".join(members) + end


def changed(member: bytes, at: int, field: bytes) -> bytes:
    """A member with other bytes in its (first) header, and the checksum that fits them."""
    header = bytearray(member[:512])
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + member[512:]


def extended(kind: bytes, content: bytes) -> bytes:
    """An extended header of a kind with what it says about the next member, or all that follow."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def pax(**records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        size = len(rest) + len(str(len(rest)))
        size = len(rest) + len(str(size))
        lines += str(size).encode() + rest
    return lines


def tools() -> bytes:
    """A base as busybox is one: a program, and links to it, in the same layer and through a folder that is one."""
    programs = [entry(f"bin/{name}", _LINK, "busybox") for name in ("sh", "ln", "sleep")]
    return tar(
        entry("./", _DIR), entry("bin/", _DIR), entry("bin/busybox"), *programs,
        entry("bin/ls", _HARD, "bin/busybox"), entry("sbin", _LINK, "bin"), entry("model", _LINK, "models"),
    )  # fmt: skip


def model() -> bytes:
    return tar(
        entry("models/", _DIR), entry("models/config.json", content=CONFIGURATION),
        entry(_CARD, content=WEIGHTS), entry("models/tokenizer.json", content=b"{}"),
    )  # fmt: skip


def image(
    layout: Path,
    *layers: bytes,
    compress: bool = False,
    lists: Mapping[int, Sequence[tuple[str, int]]] = {},
    config: Mapping[str, Any] = {},
    more: Sequence[Sequence[bytes]] = (),
    **manifest: Any,
) -> str:
    """An image of those layers; with `more`, an index that has those of other platforms too. Its reference."""
    with open_repository(f"oci:{layout}", Settings()) as repository:
        built: list[Descriptor] = []
        for platform, group in zip(("amd64", "arm64"), (layers, *more), strict=False):
            stored = [gzip.compress(layer, mtime=0) if compress else layer for layer in group]
            written = ImageConfig(
                architecture=platform,
                os="linux",
                config=RunConfig(user="1001"),
                rootfs=RootFs(diff_ids=tuple(Digest.of(layer) for layer in group)),
            ).document()
            document = canonical_json(written | {"config": written["config"] | dict(config)})
            for blob in (*stored, document):
                repository.put_blob(Blob.of(blob), lambda _: None)
            descriptors = tuple(
                Descriptor(
                    media_type=TAR + ("+gzip" if compress else ""),
                    digest=Digest.of(layer),
                    size=len(layer),
                    annotations=_listed(lists[number]) if number in lists else {},
                )
                for number, layer in enumerate(stored)
            )
            said = ImageManifest(
                config=Descriptor(media_type=CONFIG, digest=Digest.of(document), size=len(document)),
                layers=descriptors,
                **manifest,
            ).encode()
            digest = repository.put(said, MANIFEST)
            where = Platform(architecture=platform, os="linux")
            built.append(Descriptor(media_type=MANIFEST, digest=digest, size=len(said), platform=where))
        if more:
            index = Index(manifests=tuple(built))
            digest = repository.put(index.encode(), index.media_type)
        return f"oci:{layout}@{digest}"


def _listed(files: Sequence[tuple[str, int]]) -> dict[str, str]:
    return {
        "dev.carwright.files": canonical_json([[path, size, f"sha256:{'0' * 64}"] for path, size in files]).decode()
    }


def _over(*members: bytes, **more: Any) -> Callable[[Path], str]:
    """The honest image with one layer on top."""
    return lambda layout: image(layout, tools(), model(), tar(*members, **more))


def _two(first: Sequence[bytes], second: Sequence[bytes]) -> Callable[[Path], str]:
    return lambda layout: image(layout, tools(), model(), tar(*first), tar(*second))


_EVIL = (entry("evil/", _DIR), entry("evil/model.safetensors", content=WEIGHTS))
_SWAPPED = entry(_CARD, content=WEIGHTS[:-1] + b"\1")
_ACL = {"SCHILY.xattr.trusted.overlay.redirect": "/evil"}
_LISTED = tar(entry("models/", _DIR), entry("models/extra.json"))

ATTACKS: dict[str, Callable[[Path], str]] = {
    "the folder is a link": _over(*_EVIL, entry("models", _LINK, "evil")),
    "the folder is an absolute link": _over(*_EVIL, entry("./models", _LINK, "/evil")),
    "the folder is a link in the base": lambda layout: image(
        layout, tar(*_EVIL, entry("models", _LINK, "evil")), tools(), model()
    ),
    "the folder is a file": _over(entry("models")),
    "the folder is a hard link": _over(*_EVIL, entry("models", _HARD, "evil/model.safetensors")),
    "the folder is a device": _over(entry("models", tarfile.CHRTYPE)),
    "the folder is deleted": _over(entry(".wh.models")),
    "the folder is deleted as ./": _over(entry("./.wh.models")),
    "all is deleted": _over(entry(".wh..wh..opq")),
    "all is deleted by a name that is none": _over(entry("evil/.wh...")),
    "a sub-folder is a whiteout's": _over(entry(".wh.models/x")),
    "the folder starts anew": _over(entry("models/.wh..wh..opq"), _SWAPPED),
    "a file is a link": _over(*_EVIL, entry(_CARD, _LINK, "../evil/model.safetensors")),
    "a new file is a link": _over(entry("models/generation_config.json", _LINK, "/etc/passwd")),
    "a file is a hard link": _over(*_EVIL, entry("models/a.safetensors", _HARD, "evil/model.safetensors")),
    "a file has a hard link elsewhere": _over(entry("evil", _HARD, _CARD, mode=0)),
    "a hard link through a link": lambda layout: image(
        layout, tools(), tar(entry("way", _LINK, "models")), model(), tar(entry("evil", _HARD, "way/config.json"))
    ),
    "a file is deleted": _over(entry("models/.wh.tokenizer.json")),
    "a file is a device": _over(entry(_CARD, tarfile.CHRTYPE)),
    "a file is a pipe": _over(entry("models/pipe", tarfile.FIFOTYPE)),
    "a file is a block device": _over(entry("models/block", tarfile.BLKTYPE)),
    "a file of another type": _over(entry("models/contiguous", tarfile.CONTTYPE)),
    "a file of the oldest type": _over(entry("models/old", tarfile.AREGTYPE)),
    "a sparse file": _over(entry("models/holes", tarfile.GNUTYPE_SPARSE)),
    "a sparse file by its records": _over(
        extended(tarfile.XHDTYPE, pax(**{"GNU.sparse.name": _CARD, "GNU.sparse.size": "1"})), entry("a/b")
    ),
    "a file is replaced": _over(_SWAPPED),
    "a file is replaced as ./": _over(changed(_SWAPPED, 0, b"./" + _CARD.encode())),
    "a file is replaced as /": _over(changed(_SWAPPED, 0, b"/" + _CARD.encode())),
    "a file is replaced as //": _over(changed(_SWAPPED, 0, b"//" + _CARD.encode())),
    "a file is replaced as ././": _over(changed(_SWAPPED, 0, b"././" + _CARD.encode())),
    "a file is replaced from a folder": _over(entry("usr/../" + _CARD)),
    "a file leaves the folder": _over(entry("models/../../evil")),
    "a file is there twice in a layer": _over(entry("models/a.json"), entry("models/a.json", content=b"y")),
    "a file becomes a folder": _over(entry("models/config.json", _DIR)),
    "a file gets a file in it": _over(entry("models/config.json/x")),
    "a folder becomes a file": _two([entry("models/sub/", _DIR)], [entry("models/sub")]),
    "a sub-folder is a link": _over(*_EVIL, entry("models/onnx", _LINK, "../evil")),
    "a file through a link of its layer": _over(entry("way", _LINK, "models"), entry("way/a.json")),
    "a file through a link of a lower layer": _two([entry("way", _LINK, "/models")], [entry("way/a.json")]),
    "a file through two links": _over(
        entry("one", _LINK, "usr/two"), entry("usr/two", _LINK, ".."), entry("one/models/config.json")
    ),
    "a file is deleted through a link": _two([entry("way", _LINK, "models")], [entry("way/.wh.config.json")]),
    "nobody may read a file": _over(entry("models/a.json", mode=0o600)),
    "nobody may enter the folder": _over(entry("models/", _DIR, mode=0o700)),
    "nobody may enter the root": _over(entry("./", _DIR, mode=0o700)),
    "the root is a link": _over(entry("./", _LINK, "evil")),
    "an attribute that redirects": _over(entry("models/", _DIR, pax_headers=_ACL)),
    "an attribute that hides": _over(entry("./", _DIR, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})),
    "another model where the link is put": _over(entry("mnt/models/", _DIR), entry("mnt/models/config.json")),
    "a link to where the link is put": _over(entry("mnt", _LINK, "var"), entry("var/models/config.json")),
    "a volume over the folder": lambda layout: image(layout, tools(), model(), config={"Volumes": {"/models/": {}}}),
    "the other platform": lambda layout: image(
        layout, tools(), model(), more=[[tools(), model(), tar(entry(_CARD, _LINK, "/evil"))]]
    ),
    "a list that is not true": lambda layout: image(
        layout, tools(), model(), _LISTED.replace(b"extra.json\0", b"other.json\0"), lists={2: [("extra.json", 1)]}
    ),
    "a link behind a list": lambda layout: image(
        layout,
        tools(),
        model(),
        tar(entry("models/", _DIR), entry("models/extra.json", _LINK, "/e"), bytes(512)),
        lists={2: [("extra.json", 1)]},
    ),
    "members behind the end": _over(entry("a"), bytes(512), _SWAPPED),
    "members behind both ends": _over(entry("a"), bytes(1024), _SWAPPED),
    "a bad header in the middle": _over(entry("a"), b"\1" * 512, _SWAPPED),
    "a prefix without the magic": _over(changed(_SWAPPED, 345, b"usr")),
    "a name for all members": _over(extended(tarfile.XGLTYPE, pax(path="usr/x")), _SWAPPED),
    "a name by pax": _over(extended(tarfile.XHDTYPE, pax(path=_CARD)), entry("usr/x", content=WEIGHTS)),
    "a long name": _over(extended(tarfile.GNUTYPE_LONGNAME, _CARD.encode() + b"\0"), entry("usr/x")),
    "two names": _over(
        extended(tarfile.XHDTYPE, pax(path="usr/x")),
        extended(tarfile.GNUTYPE_LONGNAME, _CARD.encode() + b"\0"),
        entry("usr/y"),
    ),
    "a name by the headers of Solaris": _over(extended(tarfile.SOLARIS_XHDTYPE, pax(path="usr/x")), _SWAPPED),
    "an empty name": _over(extended(tarfile.XHDTYPE, pax(path="")), _SWAPPED),
    "a size with a zero before it": _over(changed(entry("a", content=_SWAPPED), 124, b"\0" + b"00000002000")),
    "a folder with contents": _over(changed(entry("a/", _DIR), 124, b"00000001000\0"), _SWAPPED),
    "a long name that is endless": _over(changed(extended(tarfile.GNUTYPE_LONGNAME, b"a"), 124, b"07777777777\0")),
}

HONEST: dict[str, Callable[[Path], str]] = {
    "plain": lambda layout: image(layout, tools(), model()),
    "gzip": lambda layout: image(layout, tools(), model(), compress=True),
    "buildah": lambda layout: image(
        layout,
        tools(),
        tar(*(changed(entry(name), 0, b"./" + name.encode()) for name in ("etc/os-release",)), entry(".wh.old")),
        tar(
            entry("models/", _DIR, mode=0o755), entry("models/config.json", content=CONFIGURATION, mode=0o644),
            entry("models/onnx/", _DIR), entry("models/onnx/config.json", content=b"{}"),
        ),
        tar(
            entry("models/", _DIR, mode=0o755), entry("models/tokenizer.json", content=b"{}"),
            entry(_CARD, content=WEIGHTS, mode=0o640, pax_headers={"mtime": "1700000000.5"}), end=bytes(10240),
        ),
        compress=True,
    ),
    "an index": lambda layout: image(layout, tools(), model(), more=[[tools(), model()]]),
    "a base with links, whiteouts and devices": lambda layout: image(
        layout,
        tools(),
        tar(
            entry("usr/.wh..wh..opq"), entry("usr/lib/", _DIR), entry(".wh.gone"), entry("dev/null", tarfile.CHRTYPE),
            entry("etc/mtab", _LINK, "../proc/mounts"), entry("mnt/", _DIR), entry("bin/ls2", _HARD, "bin/busybox"),
        ),
        model(),
    ),
    "names that differ in case": lambda layout: image(layout, tools(), model(), tar(entry("models/Config.json"))),
    "one list that is true": lambda layout: image(layout, tools(), model(), _LISTED, lists={2: [("extra.json", 1)]}),
}  # fmt: skip


def opened(layer: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(layer))
