"""One container: what goes in, what comes out, and its end."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from containers.errors import BadInput, Temporary
from infra.container_engine.failures import translated_errors
from infra.hardening import USER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ARCHIVE: Final = 256 << 20  # bytes of a result, at most
_KILLED: Final = 128 + 9  # the exit code of what SIGKILL ended
_LATE: Final = 2.0  # seconds that the word of a lack of memory may be late
_LINE: Final = 4 << 20  # bytes of one line of output, at most; a result is a line where no folder is shared


@dataclass(frozen=True)
class State:
    """`code` of one that has ended; `oom` says that the kernel ended something in it for want of memory."""

    status: str
    running: bool
    code: int
    oom: bool


@dataclass(frozen=True)
class Container:
    """One container; `labels` are those of ours, without their prefix, `created` is in seconds since the epoch."""

    api: Any
    id: str
    name: str
    labels: Mapping[str, str]
    created: float = 0.0

    def put(self, folder: str, entries: Mapping[str, bytes | None], *, mtime: float | None = None) -> None:
        """Write files (bytes) and folders (None) below `folder`, which must lie in a volume, for the container's user only.

        A folder that exists gets the time and keeps its contents.
        """
        with translated_errors(f"write into {self.name}"):
            self.api.put_archive(self.id, folder, _tar(entries, time.time() if mtime is None else mtime))

    def read(self, path: str) -> bytes | None:
        """The content of a file; None when there is none."""
        with translated_errors(f"read from {self.name}"):
            try:
                content, _ = self._archive(path)
            except NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                file = archive.extractfile(archive.next() or tarfile.TarInfo())
                return file.read() if file is not None else None

    def modified(self, path: str) -> float | None:
        """When a file or folder was changed, by its own time; None when there is none."""
        with translated_errors(f"look into {self.name}"):
            try:
                _, about = self._archive(path)
            except NotFound:
                return None
            return datetime.fromisoformat(about["mtime"]).timestamp()

    def _archive(self, path: str) -> tuple[bytes, Mapping[str, Any]]:
        """A tar of the file or folder, and what the engine says of it; one that is cut short is asked for once more."""
        try:
            return self._archive_once(path)
        except RequestException:
            return self._archive_once(path)

    def _archive_once(self, path: str) -> tuple[bytes, Mapping[str, Any]]:
        chunks, about = self.api.get_archive(self.id, path)
        return _bounded(chunks, f"{path} in {self.name}"), about

    def touch(self, path: str, at: float | None = None) -> None:
        """Give a folder a time: `at`, or now by the engine's clock. The folder is never gone in between."""
        folder, _, name = path.rpartition("/")
        self.put(folder, {name: None}, mtime=now(self.api) if at is None else at)

    def lines(self) -> Iterator[str]:
        """Attach, now, before the start; the iterator then yields each line of both outputs until the container ends."""
        with translated_errors(f"attach to {self.name}"):
            stream = self.api.attach(self.id, stdout=True, stderr=True, stream=True, demux=True)
        return _lines(stream)

    def start(self) -> None:
        with translated_errors(f"start {self.name}"):
            self.api.start(self.id)

    def state(self) -> State:
        """Raises Temporary when the container was removed."""
        with translated_errors(f"look at {self.name}"):
            try:
                told = self.api.inspect_container(self.id)["State"]
            except NotFound as error:
                raise Temporary(f"the container {self.name} was removed while in use") from error
        return State(told["Status"], bool(told["Running"]), int(told["ExitCode"]), bool(told["OOMKilled"]))

    def end_state(self) -> State:
        """The state of a container that has ended, with what ended it.

        The engine hears that the kernel ended something for want of memory by an event of its own, which may come after the end.
        """
        ends = time.monotonic() + _LATE
        while (state := self.state()).code == _KILLED and not state.oom and time.monotonic() < ends:
            time.sleep(0.05)
        return state

    def wait(self) -> State:
        """How a short program ended."""
        while (state := self.state()).running:
            time.sleep(0.05)
        return state

    def published(self, port: int) -> int | None:
        """The port of the engine's machine that leads to one of the container."""
        with translated_errors(f"look at {self.name}"):
            bound = self.api.inspect_container(self.id)["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        return int(bound[0]["HostPort"]) if bound else None


def now(api: Any) -> float:
    """The engine's clock, in seconds since the epoch."""
    with translated_errors("tell the time"):
        return datetime.fromisoformat(api.info()["SystemTime"]).timestamp()


def remove(api: Any, name: str) -> None:
    with translated_errors(f"remove {name}"), contextlib.suppress(NotFound):
        try:
            api.remove_container(name, v=True, force=True)
        except APIError as error:
            if "already in progress" not in str(error.explanation):
                raise


def _bounded(chunks: Iterator[bytes], what: str) -> bytes:
    """All chunks; raises BadInput for more than a step has to say: what is read was written by the container."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > _ARCHIVE:
            raise BadInput(
                f"{what} has more than {_ARCHIVE >> 20} MiB", remedy="the step's image is damaged or hostile"
            )
    return bytes(content)


def _tar(entries: Mapping[str, bytes | None], mtime: float) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mtime = USER, 0, mtime
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.mode = 0o700 if content is None else 0o400
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def _lines(stream: Iterator[tuple[bytes | None, bytes | None]]) -> Iterator[str]:
    """Whole lines of the two outputs, each put together by itself; what is unfinished at the end counts as one."""
    rest = [b"", b""]
    with contextlib.suppress(OSError):  # the engine went away, which the next question to it will say
        for chunks in stream:
            for place, chunk in enumerate(chunks):
                *whole, rest[place] = (rest[place] + (chunk or b"")).split(b"\n")
                if len(rest[place]) > _LINE:  # of a program that never ends one
                    whole, rest[place] = [*whole, rest[place]], b""
                yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    yield from (line.decode(errors="replace") for line in rest if line)
