"""What pip says while it installs a lock: progress out of its lines, and the one error behind many of them."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.events import Event
from containers.pins import read_pins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_KEPT: Final = 400  # lines: an index that does not answer gives five warnings for one package
_SET: Final = "set CARWRIGHT_PIP_EXTRA_INDEX_URL or pip's own configuration to an index that has it"

_FETCHED = re.compile(r"(Collecting|Processing) (?P<what>\S+)")
_WRONG_HASH = re.compile(r"^\s+(?P<package>[\w.-]+(\[[^]]*])?==\S+?)(:$| from )", re.MULTILINE)
_ABSENT = re.compile(r"No matching distribution found for (?P<package>\S+)")
_NO_TOOL = re.compile(
    r"Cannot import (build backend )?'(?P<tool>[\w.]+)'|No module named '(?P<module>setuptools|wheel)'"
)
_HOST = re.compile(r"host='(?P<host>[^']+)', port=(?P<port>\d+)")
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Connection refused|Connection (reset|aborted)"
    r"|Temporary failure in name resolution|Name or service not known|ProxyError|Max retries exceeded|IncompleteRead"
    r"|Network is unreachable|HTTP error 5\d\d|50[234] Server Error"
)


class PipOutput:
    """Turns pip's lines into progress events; `lines` are the last ones, for `failure`."""

    def __init__(self, name: str, lock: str, on_event: Callable[[Event], None]) -> None:
        self.name = name
        self.total = len(read_pins(lock))
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self._on_event = on_event
        self._fetched: set[str] = set()
        self._installing = False

    def begin(self) -> None:
        """Another call of pip begins: what the last one said is over, what it fetched still counts."""
        self.lines.clear()
        self._installing = False

    def note(self, message: str) -> None:
        """Something to say that pip does not."""
        self._on_event(Event(event="log", message=f"{self.name}: {message}"))

    def line(self, text: str) -> None:
        """One line of pip's output."""
        self.lines.append(text)
        if found := _FETCHED.match(text):
            self._fetched.add(found["what"])  # a package that is looked for in two places counts once
            self._progress("fetch packages for", min(len(self._fetched), self.total))
        elif text.startswith("Installing collected packages"):
            self._installing = True

    def installed(self, count: int) -> None:
        """How many packages lie in the environment; pip says nothing while it puts them there."""
        if self._installing:
            self._progress("install packages for", min(count, self.total))

    def _progress(self, verb: str, done: int) -> None:
        task = f"{verb} {self.name}"
        self._on_event(Event(event="progress", task=task, done=done, total=self.total, unit="packages"))


def is_absent(lines: Iterable[str]) -> bool:
    """Whether pip reached what it is configured with, and nothing there offers a package in the pinned version."""
    text = "\n".join(lines)
    return bool(_ABSENT.search(text)) and not _UNREACHABLE.search(text)


def failure(name: str, code: int, lines: Iterable[str]) -> Error:
    """The error that pip's output amounts to."""
    text = "\n".join(lines)
    what = f"the environment of {name} cannot be made"
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return DiskFull(
            f"{what}: no space left", remedy="free some space, or set CARWRIGHT_CACHE to a folder on a larger disk"
        )
    if "DO NOT MATCH THE HASHES" in text:
        found = _WRONG_HASH.search(text.partition("DO NOT MATCH THE HASHES")[2])
        package = found["package"] if found else "a package"
        return BadInput(
            f"{what}: {package} from the index is not the locked file",
            remedy="find out which index served it; lock again only if the change is intended",
        )
    if _UNREACHABLE.search(text):
        hosts = ", ".join(dict.fromkeys(map(":".join, _HOST.findall(text))))
        return Temporary(
            f"{what}: the package index {f'at {hosts} ' if hosts else ''}cannot be reached",
            remedy="check the network and pip's configuration (PIP_INDEX_URL, HTTPS_PROXY), then run again",
        )
    if found := _ABSENT.search(text):
        return BadInput(f"{what}: no index offers {found['package']}", remedy=_SET)
    if found := _NO_TOOL.search(text):
        tool = (found["tool"] or found["module"]).partition(".")[0]
        return BadInput(
            f"{what}: a package comes as source, and {tool}, which builds it, is not in the lock",
            remedy=f"add {tool} to the requirements and lock again: nothing is installed that no hash decided",
        )
    tail = "\n".join(line for line in text.splitlines()[-15:] if line.strip())
    return Error(f"{what}: pip ended with code {code}:\n{tail}")
