"""The base "busybox": a whole shell and a few more programs than KServe's modelcar contract calls for.

One static busybox binary an architecture, pinned by the sha256 of the file, so that the base layer, and with it every
modelcar, has the same digest everywhere. It is the one of Debian's package busybox-static; where it comes from does not
matter, because its hash decides. KServe runs `sh -c "ln -sf /proc/$$/root/models /mnt/models && sleep infinity"` as
arguments of the image (pkg/utils/storage.go), so there is no entry point, and `sh`, `ln`, `sleep` and `ls` must be there.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Error
from containers.oci import apt
from containers.oci.base_tar import FILE, FOLDER, LINK, base_tar
from containers.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StepSettings

VERSION: Final = "1:1.35.0-4+deb12u1+b1"
RELEASE: Final = "bookworm"
APPLETS: Final = (
    "cat",
    "cp",
    "du",
    "env",
    "find",
    "ln",
    "ls",
    "mkdir",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
    "tar",
    "test",
)
_NOTICE: Final = f"""\
/bin/busybox is BusyBox, under the GNU General Public License, version 2, as built by Debian: package busybox-static
{VERSION}, source package busybox. Its source is in Debian's archive and at busybox.net.
"""
_DEB_MAX: Final = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Pinned:
    """The binary of one architecture: OCI's and Debian's name of it, the sha256 of the binary and of the package."""

    architecture: str
    binary: str
    package: str


PINNED: Final = (
    Pinned(
        "amd64",
        "3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6",
        "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744",
    ),
    Pinned(
        "arm64",
        "61781806ad3650b0b9d2b3fc6971e2bffdca967af1a95375abd0578bafff14fb",
        "732c9135564fc71337e0e05fb4da4d11e6c28c1834bce3e405e575afef2a52f5",
    ),
)


def base_layer(binary: bytes) -> bytes:
    """The base layer's tar: /bin/busybox, its links, /mnt and /tmp; a function of the binary alone."""
    return base_tar(
        [
            ("bin", FOLDER, 0o755, b""),
            ("bin/busybox", FILE, 0o755, binary),
            *((f"bin/{name}", LINK, 0o777, "busybox") for name in APPLETS),
            ("mnt", FOLDER, 0o1777, b""),
            ("tmp", FOLDER, 0o1777, b""),
            ("usr", FOLDER, 0o755, b""),
            ("usr/share", FOLDER, 0o755, b""),
            ("usr/share/doc", FOLDER, 0o755, b""),
            ("usr/share/doc/busybox", FOLDER, 0o755, b""),
            ("usr/share/doc/busybox/NOTICE", FILE, 0o644, _NOTICE.encode()),
        ]
    )


def find_binary(architecture: str, settings: StepSettings) -> bytes:
    """The pinned binary: from the setting `busybox`, the cache, this machine's own, or Debian's archive through apt.

    Raises BadInput, with the ways out, when none of them has it.
    """
    pinned = next((one for one in PINNED if one.architecture == architecture), None)
    if pinned is None:
        known = ", ".join(one.architecture for one in PINNED)
        raise BadInput(
            f"there is no busybox base for {architecture}, only for {known}",
            remedy="use --base REFERENCE or --base none",
        )
    if settings.busybox is not None:
        return _given(settings.busybox, pinned)
    cached = settings.cache.expanduser() / "busybox" / pinned.binary
    for path in (cached, Path("/bin/busybox"), Path("/usr/bin/busybox")):
        content = _matching(path, pinned)
        if content is not None:
            return content
    content = _fetch(pinned)
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_name(f"{cached.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(cached)
    return content


def _given(path: Path, pinned: Pinned) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"the setting busybox: cannot read {path}: {error.strerror}") from error
    if content.startswith(b"!<arch>\n"):
        content = _unpack(content)
    if hashlib.sha256(content).hexdigest() != pinned.binary:
        raise BadInput(
            f"{path} is not the pinned busybox for {pinned.architecture}",
            remedy=f"give the binary, or the package, of Debian's busybox-static {VERSION}; for another base image use "
            "--base REFERENCE",
        )
    return content


def _matching(path: Path, pinned: Pinned) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == pinned.binary else None


def _fetch(pinned: Pinned) -> bytes:
    """The package from this machine's Debian mirror, whatever release the machine itself is of.

    apt works in a folder of its own, so that neither root nor the system's package lists are needed or touched. The
    lists' signatures are not checked: the hash above says more than they could.
    """
    reasons: list[str] = []
    try:
        listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], timeout=60).stdout
        for uri in dict.fromkeys(line.strip() for line in listed.splitlines()):
            if uri.rstrip("/").endswith("/debian"):
                try:
                    return _download(uri, pinned)
                except Error as error:
                    reasons.append(error.message)
        reasons = reasons or ["this machine's apt has no Debian mirror configured"]
    except Error as error:
        reasons = [error.message]
    raise BadInput(
        f"the pinned busybox for the modelcar's base ({pinned.architecture}) was not found: {'; '.join(reasons)}",
        remedy=(
            f"set CARWRIGHT_BUSYBOX to the binary or the package of Debian's busybox-static {VERSION}, or choose "
            "--base REFERENCE, or --base none for an image that only image volumes can use"
        ),
    )


def _download(uri: str, pinned: Pinned) -> bytes:
    with tempfile.TemporaryDirectory(prefix="carwright-apt-") as scratch:
        root = Path(scratch)
        flags = apt.separate(root, f"deb [trusted=yes] {uri} {RELEASE} main\n", pinned.architecture)
        argv = ["apt-get", "-q", *flags]
        run([*argv, "update"], timeout=180)
        run([*argv, "download", f"busybox-static={VERSION}"], timeout=180, cwd=root)
        package = next(root.glob("busybox-static_*.deb")).read_bytes()
    if hashlib.sha256(package).hexdigest() != pinned.package:
        raise BadInput(f"the package busybox-static {VERSION} is not the one that is pinned")
    return _unpack(package)


def _unpack(package: bytes) -> bytes:
    """/bin/busybox out of a Debian package (deb(5): an ar archive with data.tar.xz); b"" when there is none."""
    for name, content in _members(package):
        if name == "data.tar.xz":
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content))) as data:
                for member in data:
                    if member.name.removeprefix("./") in ("bin/busybox", "usr/bin/busybox") and member.isreg():
                        file = data.extractfile(member)
                        assert file is not None
                        return file.read(_DEB_MAX)
    return b""


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of an ar archive (ar(5)): 60 byte headers, contents padded to two bytes."""
    at = 8
    while at + 60 <= len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        yield header[:16].decode().rstrip(" /"), archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
