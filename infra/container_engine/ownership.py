"""Identifies the process that owns a container, and whether it is still alive."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.heartbeat import stays
from containers.process import start_time

if TYPE_CHECKING:
    from infra.container_engine.container import Container

ALIVE: Final = "/run/carwright/alive"  # its modification time is the last heartbeat of whoever waits for a step
ALIVE_INTERVAL: Final = 60.0  # seconds between two of them
ALIVE_SILENCE: Final = 3600.0  # seconds without one: a laptop may sleep, and its engine elsewhere may not
LEASE: Final = "/run/carwright/lease"  # of a service (`containers.heartbeat`)


def owner() -> str:
    """Names this process: by machine and process namespace (as far as they can be told), pid and start."""
    return f"{_place()}/{os.getpid()}/{start_time(os.getpid())}"


def is_alive(named: str) -> bool | None:
    """Whether the process that `owner` named there still runs; None when it cannot be seen from here."""
    place, pid, started = named.rsplit("/", 2) if named.count("/") > 1 else ("", "0", "")
    return start_time(int(pid)) == started if place == _place() else None


def is_kept(container: Container) -> bool:
    """Whether it is a service that was meant to stay, and runs."""
    if not container.state().running:
        return False
    renewed = container.modified(LEASE)
    return renewed is not None and stays(renewed)


@cache
def _place() -> str:
    """What two processes must have in common for their pids to be compared (random(4), boot_id; namespaces(7))."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown:{os.getpid()}"
