"""SHA-256 of one long stream on many cores.

SHA-256 takes its input 64 bytes at a time and carries 256 bits from one block to the next (FIPS 180-4, 6.2.2). So whoever
hashes a stream for the first time goes through it in order. On the way he can write those bits down every few MiB; with
these *midstates* all stretches can be checked at once: each must lead from one midstate to the next, the first from the
standard's initial value, the last to the digest. That proves what one pass proves. A midstate need not be trusted, and lies
beside what it is of: a wrong one does not lead where it should.

hashlib cannot begin at a midstate. OpenSSL can (SHA256_Update(3)), and is called in the very library that hashlib uses;
where an interpreter hides that, there are no midstates, and a check is one pass.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from containers.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

STRETCH: Final = 4 << 20  # bytes from one midstate to the next: some milliseconds of one core
_MIDSTATE: Final = 32
_PIECE: Final = 256 << 10


class Sha256:
    """The digest of a stream, and its midstates, in one pass. For one thread at a time."""

    def __init__(self) -> None:
        self._openssl = _openssl()
        self._context = self._openssl.begin() if self._openssl is not None else None
        self._plain = hashlib.sha256() if self._openssl is None else None
        self._midstates = bytearray()
        self.size = 0

    def update(self, data: Buffer) -> None:
        if self._openssl is None or self._context is None:
            assert self._plain is not None
            self._plain.update(data)
            self.size += len(data)
            return
        for part in _cut(data, self.size):
            self._openssl.update(self._context, part)
            self.size += len(part)
            if self.size % STRETCH == 0 and part:
                self._midstates += _midstate(self._context)

    def digest(self) -> Digest:
        if self._openssl is None or self._context is None:
            assert self._plain is not None
            return Digest(self._plain.hexdigest())
        return Digest(self._openssl.finish(self._context).hex())

    @property
    def midstates(self) -> bytes:
        """32 bytes for each whole stretch; none where nobody can use them, or nobody would be faster with them."""
        return bytes(self._midstates) if useful(self.size) else b""


class Verification:
    """Whether a stream that comes by in order has a digest; on many cores if its midstates are given.

    `data` must not change after `update`: it is hashed later, a few stretches at once in the whole process. `on_wrong` is called, before `right`
    returns False, if the midstates may be to blame.
    """

    def __init__(
        self, digest: Digest, size: int, midstates: bytes = b"", on_wrong: Callable[[], None] = lambda: None
    ) -> None:
        self._digest, self._size, self._on_wrong = digest, size, on_wrong
        self._stretches = _Stretches(digest, size, midstates) if _fit(size, midstates) else None
        self._serial = Sha256() if self._stretches is None else None
        self._seen = 0
        self._parts: list[memoryview] = []

    def update(self, data: Buffer) -> None:
        if self._serial is not None:
            self._serial.update(data)
            return
        for part in _cut(data, self._seen):
            self._parts.append(part)
            self._seen += len(part)
            if self._seen % STRETCH == 0 and part:
                self._submit()

    def right(self) -> bool:
        """Whether it was exactly that stream. Call it once, at the end."""
        if self._stretches is None:
            assert self._serial is not None
            return self._serial.size == self._size and self._serial.digest() == self._digest
        if self._seen == self._size:
            self._submit()  # what is behind the last whole stretch, or nothing: the digest follows from it
        if self._stretches.right() and self._seen == self._size:
            return True
        self._on_wrong()
        return False

    def _submit(self) -> None:
        parts, self._parts = self._parts, []
        assert self._stretches is not None
        self._stretches.submit(lambda: parts)


def hash_file(path: Path) -> Sha256:
    """Read a file once, with bounded memory."""
    hashed, piece = Sha256(), memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            hashed.update(piece[:count])
    return hashed


def verify_file(
    file: int, size: int, digest: Digest, midstates: bytes, on_bytes: Callable[[int], None] | None = None
) -> bool:
    """Whether an open file has a digest, by its midstates: all of it is read at once. False, too, if these are of no use."""
    if not _fit(size, midstates):
        return False
    stretches = _Stretches(digest, size, midstates)

    def reader(start: int) -> Callable[[], list[memoryview]]:
        def read() -> list[memoryview]:
            if not hasattr(_buffers, "stretch"):
                _buffers.stretch = memoryview(bytearray(STRETCH))
            left = _buffers.stretch[: size - start]
            got = 0
            while left and (count := os.preadv(file, [left], start + got)):
                got, left = got + count, left[count:]
            if on_bytes is not None:
                on_bytes(got)
            return [_buffers.stretch[:got]]

        return read

    for start in range(0, size - size % STRETCH + 1, STRETCH):
        stretches.submit(reader(start))
    return stretches.right() and os.fstat(file).st_size == size


def useful(size: int) -> bool:
    """Whether a stream of so many bytes has more than one stretch to check at once."""
    return size >= 2 * STRETCH


_buffers = (
    threading.local()
)  # of the threads that check: fresh memory for each stretch would cost as much as hashing it


class _Stretches:
    """The stretches of one stream, submitted in order and checked in any."""

    def __init__(self, digest: Digest, size: int, midstates: bytes) -> None:
        self._digest, self._size, self._midstates = digest, size, midstates
        self._checks: list[Future[bool]] = []

    def submit(self, load: Callable[[], Sequence[memoryview]]) -> None:
        """Check the next stretch, which `load` gives, on the thread that is to check it. Waits while enough are under way."""
        number = len(self._checks)
        room = _room()
        room.acquire()
        try:
            future = _pool().submit(self._check, number, load)
        except BaseException:
            room.release()
            raise
        future.add_done_callback(lambda _: room.release())
        self._checks.append(future)

    def right(self) -> bool:
        wait(self._checks)  # all of them: nothing reads the file any more when this returns
        return len(self._checks) == self._size // STRETCH + 1 and all(check.result() for check in self._checks)

    def _check(self, number: int, load: Callable[[], Sequence[memoryview]]) -> bool:
        openssl = _openssl()
        assert openssl is not None
        context = openssl.begin(number * STRETCH, self._midstate(number))
        parts = load()
        for part in parts:
            openssl.update(context, part)
        size = sum(map(len, parts))
        if number * STRETCH + size == self._size and size < STRETCH:
            return openssl.finish(context).hex() == self._digest.hex
        return size == STRETCH and _midstate(context) == self._midstate(number + 1)

    def _midstate(self, number: int) -> bytes:
        """Before the stretch of that number; empty before the first one."""
        return self._midstates[max(number - 1, 0) * _MIDSTATE : number * _MIDSTATE]


class _Context(ctypes.Structure):
    """SHA256_CTX of OpenSSL's include/openssl/sha.h: the midstate, the bits so far in two halves, a block that is not full."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
    )


class _View(ctypes.Structure):
    """Py_buffer (Python/C API, "Buffer Protocol"), for the address of bytes that may be read only."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


class _OpenSSL:
    """Raises AttributeError or OSError where an interpreter has it built in."""

    def __init__(self) -> None:
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)  # symbols are looked for in what it is linked to, too (dlsym(3))
        self._init, self._update, self._final = library.SHA256_Init, library.SHA256_Update, library.SHA256_Final
        self._init.argtypes = (ctypes.POINTER(_Context),)
        self._update.argtypes = (ctypes.POINTER(_Context), ctypes.c_void_p, ctypes.c_size_t)
        self._final.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Context))

    def begin(self, size: int = 0, midstate: bytes = b"") -> _Context:
        """As if `size` bytes, whole blocks, had gone by and led to a midstate."""
        context = _Context()
        self._init(ctypes.byref(context))
        if midstate:
            context.h[:] = [int.from_bytes(midstate[at : at + 4], "big") for at in range(0, _MIDSTATE, 4)]
            context.low, context.high = (size * 8) & 0xFFFFFFFF, size * 8 >> 32
        return context

    def update(self, context: _Context, data: memoryview) -> None:
        """Without the GIL, as every call of ctypes."""
        view = _View()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
        try:
            self._update(ctypes.byref(context), view.buf, view.len)
        finally:
            ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))

    def finish(self, context: _Context) -> bytes:
        """The digest; the context goes on as it was."""
        copy, out = _Context.from_buffer_copy(context), ctypes.create_string_buffer(_MIDSTATE)
        self._final(out, ctypes.byref(copy))
        return out.raw


@cache
def _openssl() -> _OpenSSL | None:
    """None where it cannot be had, or does not compute what hashlib computes."""
    try:
        found = _OpenSSL()
        first = found.begin()
        found.update(first, memoryview(b"a" * 64))
        second = found.begin(64, _midstate(first))
        found.update(second, memoryview(b"b" * 70))
        right = found.finish(second) == hashlib.sha256(b"a" * 64 + b"b" * 70).digest()
    except (ImportError, AttributeError, OSError, TypeError):
        return None
    return found if right else None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="sha256")


@cache
def _room() -> threading.BoundedSemaphore:
    """For stretches that are checked or wait for it: they hold memory."""
    return threading.BoundedSemaphore(_cores() + 2)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _fit(size: int, midstates: bytes) -> bool:
    return useful(size) and len(midstates) == size // STRETCH * _MIDSTATE and _openssl() is not None


def _cut(data: Buffer, at: int) -> Iterable[memoryview]:
    """Data that comes at byte `at`, cut where stretches end."""
    view: Any = memoryview(data)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    while view:
        part = view[: STRETCH - at % STRETCH]
        yield part
        at, view = at + len(part), view[len(part) :]


def _midstate(context: _Context) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in context.h)
