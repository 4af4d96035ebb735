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
_DEADLINE: Final = 20.0  # seconds


@contextmanager
def LocalRegistry(  # noqa: N802 -- reads as the thing that it makes, like EmbeddedStore
    folder: Path,
    *,
    binary: str = "docker-registry",
    htpasswd: Path | None = None,
    extra: dict[str, Any] | None = None,
) -> Iterator[str]:
    """Serve `folder` until the block ends; yields `127.0.0.1:PORT`.

    Deleting is allowed. `htpasswd` turns on basic authentication (bcrypt lines); `extra` is merged into the top level of
    the configuration. Raises BadInput when the program is not installed and NotReady when it does not come up.
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
    if htpasswd is not None:
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(htpasswd)}}
    path = folder / "config.yml"
    path.write_text(json.dumps(config | (extra or {})))  # YAML 1.2 takes JSON
    address: list[str] = []
    heard = threading.Event()

    def listen(line: str) -> None:
        if not address and (match := _LISTENING.search(line)):
            address.append(match[1])
            heard.set()

    with Child([binary, "serve", str(path)], inherited(), log_file=folder / "log", on_line=listen):
        if not heard.wait(_DEADLINE):
            raise NotReady(
                f"{binary} did not start within {_DEADLINE:g} seconds; see {folder / 'log'}",
                remedy="install Debian's package docker-registry",
            )
        yield address[0]
