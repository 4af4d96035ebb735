"""What a test asks the server to do wrong."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Applies to requests whose method and path (with the query) match, `times` times or for ever.

    `status` answers with that code and `retry_after` seconds; `cut_after` closes the connection after so many bytes of
    the body (the headers promise all of them); `bytes_per_second` slows the body down; `flip` changes the byte at that
    offset of the body; `whole` answers with all of the body whatever range was asked for. `probability` below 1 leaves
    some requests alone.
    """

    match: str
    method: str = "GET"
    times: int | None = None
    status: int | None = None
    retry_after: int | None = None
    cut_after: int | None = None
    bytes_per_second: int | None = None
    flip: int | None = None
    whole: bool = False
    probability: float = 1.0


class Faults:
    """The faults in force; the first that matches a request is used up by it. Safe to use from several threads."""

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 (repeatable, and not for secrets)
        self._left: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._left.append((fault, fault.times))

    def clear(self) -> None:
        with self._lock:
            self._left.clear()

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for index, (fault, left) in enumerate(self._left):
                if left == 0 or fault.method != method or not re.search(fault.match, path):
                    continue
                if fault.probability < 1 and self._random.random() >= fault.probability:
                    continue
                if left is not None:
                    self._left[index] = (fault, left - 1)
                return fault
        return None
