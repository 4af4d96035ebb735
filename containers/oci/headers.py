"""The members of a layer, read in the one way in which every reader reads them; what can be read in two ways is refused.

Engines read tars with Go's archive/tar and we with Python's tarfile. The two differ in corners (a prefix without the
magic of ustar, a path for all members in a global header, two headers that both rename, what follows the end), and there
a layer would be one tree to us and another to the engine.

Sizes and names are bounded before anything is allocated or passed over for them, and pax records are read here before
tarfile sees them: its own parser takes quadratic time for some (CVE-2024-6232, mended in Python 3.11.10).
"""

from __future__ import annotations

import re
import tarfile
import threading
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_values import shown
from containers.oci.layer import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor
    from containers.streams import Stream

_BLOCK: Final = 512
_EXTENDED_MAX: Final = 1 << 20  # bytes of a long name or of pax records, as in Go
_HEADERS_MAX: Final = 256 << 20  # bytes of all headers of an image: half a million files; large bases have 200,000
_NAME_MAX: Final = 4096  # bytes of a path or of a link's target, as in Linux (PATH_MAX)
_PARTS_MAX: Final = 256  # folders in folders
_SIZE: Final = re.compile(rb" *[0-7]*[ \0]*|\x80[\0-\xff]{11}", re.DOTALL)  # octal, or base 256
_USTAR: Final = b"ustar\x0000"
_PAX: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_HARMLESS: Final = frozenset({"comment"})  # what `git archive` writes for all members
_GLOBAL_MAX: Final = 8  # headers for all members in front of one
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,6}) ")  # the length of a pax record, itself included
_DECIMAL: Final = re.compile(r"[0-9]{1,19}")
_DIGITS: Final = re.compile(rb"[0-9]{32}")  # more than any number in a record has
_NEAR: Final = 1 << 20  # bytes that are read over rather than asked for again after them


class HeaderBudget:
    """How many bytes of headers the layers of one image may have together; threads share it."""

    def __init__(self, left: int = _HEADERS_MAX) -> None:
        self._left = left
        self._lock = threading.Lock()

    def spend(self, member: tarfile.TarInfo) -> None:
        """Raises BadInput once it is used up."""
        with self._lock:
            self._left -= member.offset_data - member.offset
            if self._left < 0:
                raise BadInput(
                    f"the layers have more than {_HEADERS_MAX >> 20} MiB of file names and attributes",
                    remedy="an image for a model has some hundred files: build it again over a smaller base",
                )


def open_tar(file: Stream, mode: str) -> tarfile.TarFile:
    """A tar whose headers are checked one by one; raises tarfile.TarError, here and in what follows."""
    try:
        return tarfile.open(  # type: ignore[call-overload, no-any-return]
            fileobj=file, mode=mode, bufsize=1 << 16, tarinfo=_strict(), encoding="utf-8", errors="surrogateescape"
        )
    except (ValueError, RecursionError) as error:
        raise tarfile.ReadError(f"a header cannot be read: {error}") from error


def members(tar: tarfile.TarFile, largest: int, budget: HeaderBudget) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar from `open_tar`, and nothing but zeros after the last. None has more than `largest` bytes."""
    while True:
        try:
            member = tar.next()
        except (ValueError, RecursionError) as error:
            raise tarfile.ReadError(f"a header cannot be read: {error}") from error
        if member is None:
            break
        budget.spend(member)
        if odd := next(_odd(member, largest), "") or _odd_for_all(tar):
            raise tarfile.ReadError(f"{shown(member.name)!r} {odd}")
        yield member
    file: Any = tar.fileobj
    while rest := file.read(CHUNK):
        if rest.count(0) != len(rest):
            raise tarfile.ReadError("something follows its end, which some readers take for members")


def read_headers(
    repository: Repository, layer: Descriptor, budget: HeaderBudget | None = None
) -> tuple[tarfile.TarInfo, ...]:
    """The members of an uncompressed layer; contents are passed over, so the digest is not checked. Raises BadInput."""
    file = _Skipping(repository, layer)
    try:
        with open_tar(file, "r:") as tar:
            return tuple(members(tar, layer.size, budget or HeaderBudget()))
    except tarfile.TarError as error:
        what = repository.reference.target
        raise BadInput(f"the layer {layer.digest} of {what} is not a tar: {error}") from error
    finally:
        file.close()


def _strict() -> type[tarfile.TarInfo]:
    """A class for one tar, since it knows which headers came before the next member's own."""
    before: list[bytes] = []

    class Strict(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Strict:
            whole = len(buf) == _BLOCK
            if whole and any(buf):
                _check_header(bytes(buf), before)
            elif buf and not whole:
                raise tarfile.ReadError("it breaks off in a header")
            try:
                return super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if whole and any(buf):  # tarfile would take it for the end
                    raise tarfile.ReadError(str(error)) from error
                raise

        def _proc_pax(self, tar: Any) -> Any:  # what tarfile calls for pax headers
            body = tar.fileobj.read(self.size + -self.size % _BLOCK)
            _check_records(body[: self.size], self.size)
            tar.fileobj = _Again(body, tar)
            return super()._proc_pax(tar)  # type: ignore[misc]

    return Strict


class _Again:
    """Gives back what was read already, and then puts the tar's own file in its place."""

    def __init__(self, content: bytes, tar: Any) -> None:
        self._content, self._tar, self._file = content, tar, tar.fileobj

    def read(self, size: int) -> bytes:
        self._tar.fileobj = self._file
        return self._content[:size]


def _check_header(header: bytes, before: list[bytes]) -> None:
    kind, size = header[156:157], header[124:136]
    if not _SIZE.fullmatch(size):
        raise tarfile.ReadError(f"a header has the size {size!r}")
    if any(header[345:500]) and (header[257:265] != _USTAR or header[508:512] == b"tar\0"):
        raise tarfile.ReadError("a header has a prefix that only some readers put before the name")
    if kind == tarfile.GNUTYPE_SPARSE:
        raise tarfile.ReadError("a member is a sparse file, which can be of any size without being stored")
    if kind not in (*_PAX, *_LONG, tarfile.XGLTYPE):
        before.clear()
        return
    if tarfile.nti(size) > _EXTENDED_MAX:  # type: ignore[attr-defined]
        raise tarfile.ReadError(f"a name or its like has more than {_EXTENDED_MAX} bytes")
    if kind == tarfile.XGLTYPE:
        if before.count(kind) >= _GLOBAL_MAX:
            raise tarfile.ReadError(f"more than {_GLOBAL_MAX} headers for all members follow each other")
    else:
        own = [one for one in before if one != tarfile.XGLTYPE]
        if kind == tarfile.SOLARIS_XHDTYPE or kind in own or (own and (kind in _PAX or own[0] in _PAX)):
            raise tarfile.ReadError("a member has two headers that name it, and readers differ in which one counts")
    before.append(kind)


def _check_records(body: bytes, size: int) -> None:
    """Raises ReadError unless it is whole and one record after the other: `LENGTH NAME=VALUE` and a line's end (POSIX, pax)."""
    if len(body) != size:
        raise tarfile.ReadError("it breaks off in a header")
    if b"GNU.sparse." in body:
        raise tarfile.ReadError("a member is a sparse file in a form that only some readers know")
    if _DIGITS.search(body) or b"hdrcharset=" in body:
        raise tarfile.ReadError("a member has pax records that only some readers can read")
    at = 0
    while at < size:
        length = _RECORD.match(body, at)
        end = at + int(length[1]) if length else at
        if (
            length is None
            or end > size
            or body[end - 1 : end] != b"\n"
            or body.find(b"=", length.end(), end) <= length.end()
        ):
            raise tarfile.ReadError("a member has pax records that cannot be read")
        at = end


def _odd(member: tarfile.TarInfo, largest: int) -> Iterator[str]:
    pax = member.pax_headers
    if not 0 <= member.size <= largest:
        yield f"says that it has {member.size} bytes, and its layer holds {largest} at most"
    if "\0" in member.name or "\0" in member.linkname or not (member.name or member.isdir()):
        yield "is not the name of a file"
    for name in (member.name, member.linkname):
        if len(name.encode("utf-8", "surrogateescape")) > _NAME_MAX or name.count("/") > _PARTS_MAX:
            yield "has a name that is too long for a file system"
    if any(not pax[key] for key in ("path", "linkpath", "size") if key in pax):
        yield "has an empty pax record, which readers take differently"
    if "size" in pax and not _DECIMAL.fullmatch(pax["size"]):
        yield "has a size that only some readers can read"
    if member.size and (member.isdir() or member.issym() or member.islnk() or member.isdev()):
        yield "has contents and is not a file, which readers take differently"


def _odd_for_all(tar: tarfile.TarFile) -> str:
    odd = sorted(tar.pax_headers.keys() - _HARMLESS)
    return (
        f"comes after pax records for all members ({shown(', '.join(odd))}), which container engines ignore"
        if odd
        else ""
    )


class _Skipping:
    """A blob as a file for tarfile: what is far ahead is asked for from there, so contents are not fetched."""

    def __init__(self, repository: Repository, layer: Descriptor) -> None:
        self._repository, self._layer = repository, layer
        self._at = self._rest_at = 0
        self._rest = memoryview(b"")
        self._open: Any = None
        self._chunks: Iterator[bytes] = iter(())

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        self._at = position if whence == 0 else position + (self._at if whence == 1 else self._layer.size)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = self._layer.size - self._at
        left = left if size < 0 else min(size, left)
        parts: list[bytes] = []
        while left > 0:
            part = bytes(self._here()[:left])
            if not part:
                break
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def _here(self) -> memoryview:
        """What is in memory from the position on; more of it is fetched where there is nothing."""
        ahead = self._at - self._rest_at
        if self._open is None or ahead < 0 or ahead > len(self._rest) + _NEAR:
            self.close()
            self._open = self._repository.read_blob(self._layer.digest, self._at)
            self._chunks = self._open.__enter__()
            self._rest, self._rest_at, ahead = memoryview(b""), self._at, 0
        while ahead >= len(self._rest):
            ahead -= len(self._rest)
            self._rest_at += len(self._rest)
            self._rest = memoryview(next(self._chunks, b""))
            if not self._rest:
                break
        return self._rest[ahead:]
