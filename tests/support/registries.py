"""The registries that pushing is tested on: Debian's docker-registry, and zuul-registry. `pytest --registry NAME` chooses.

zuul-registry is a program of a Python package, in an environment of its own that is made when it is asked for (57 packages).
It wants a login for writing and tokens for everything, keeps a manifest by its media type, and knows neither DELETE nor
referrers nor mounts.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import yaml

from containers.process import Child, inherited
from infra.environments.environment import ensure
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry
from tests.support.ports import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

NAMES = ("docker", "zuul")
USER, PASSWORD = "writer", "a-password-of-tests"
LOCK = Path(__file__).parents[1] / "zuul_registry" / "requirements.lock"


@contextmanager
def zuul(folder: Path) -> Iterator[str]:
    """Serve `folder` until the block ends; yields `127.0.0.1:PORT`."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = ensure("zuul-registry", LOCK, Settings().cache, on_event=print)
    port = free_port()
    config = {
        "address": "127.0.0.1",
        "port": port,
        "public-url": f"http://127.0.0.1:{port}",
        "secret": "of-tests",
        "users": [{"name": USER, "pass": PASSWORD, "access": "write"}],
        "storage": {"driver": "filesystem", "root": str(folder / "data")},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"registry": config}))
    argv = [str(environment.python.with_name("zuul-registry")), "-c", str(folder / "config.yaml"), "serve"]
    with Child(argv, inherited(), log_file=folder / "log") as server:

        def answers() -> bool:
            assert server.poll() is None, server.tail
            try:
                return httpx.get(f"http://127.0.0.1:{port}/v2/", timeout=5).status_code == httpx.codes.UNAUTHORIZED
            except httpx.TransportError:
                return False

        until(answers, lambda: server.tail)
        yield f"127.0.0.1:{port}"


SERVERS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {"docker": LocalRegistry, "zuul": zuul}


def write_login(folder: Path, address: str) -> Path:
    """A folder with Docker's config.json that has the login of `zuul`; other registries of the tests ask for none."""
    folder.mkdir(parents=True, exist_ok=True)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": login}}}))
    return folder
