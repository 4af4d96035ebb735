"""A real registry on loopback for tests: Debian's docker-registry (distribution 2.8) over a folder."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from containers.errors import NotReady
from containers.process import Child, inherited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LISTENING: Final = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_PROGRAM: Final = "docker-registry"
_DEADLINE: Final = 20.0  # seconds


@contextmanager
def LocalRegistry(folder: Path) -> Iterator[str]:  # noqa: N802 -- reads as the thing that it makes, like EmbeddedStore
    """Serve `folder` until the block ends; yields `127.0.0.1:PORT`. Deleting is allowed.

    Raises BadInput when the program is not installed and NotReady when it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}, "formatter": "text"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "loopback"},
    }
    path = folder / "config.yml"
    path.write_text(json.dumps(config))  # YAML 1.2 takes JSON
    address: list[str] = []
    heard = threading.Event()

    def listen(line: str) -> None:
        if not address and (match := _LISTENING.search(line)):
            address.append(match[1])
            heard.set()

    with Child([_PROGRAM, "serve", str(path)], inherited(), log_file=folder / "log", on_line=listen):
        if not heard.wait(_DEADLINE):
            raise NotReady(
                f"{_PROGRAM} did not start within {_DEADLINE:g} seconds; see {folder / 'log'}",
                remedy="install Debian's package docker-registry",
            )
        yield address[0]
