"""The S3 servers that the store is tested on: rclone, which comes with it, SeaweedFS and moto. `pytest --s3 NAME` chooses.

Each is a program of a Python package, on loopback, with everything it keeps in a folder of the test's. moto checks neither
keys nor signatures.
"""

from __future__ import annotations

import json
import sys
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from containers.process import Child, inherited
from containers.settings import StoreSettings
from infra.objectstore import EmbeddedStore
from tests.support.ports import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

KEY, SECRET = "an-id-of-twenty-signs", "a-secret-key-of-forty-signs"
HOST = "s3.example.test"  # below which SeaweedFS and moto know every bucket by a host name of its own


def _settings(port: int) -> StoreSettings:
    return StoreSettings(
        endpoint=f"http://127.0.0.1:{port}", access_key_id=SecretStr(KEY), secret_access_key=SecretStr(SECRET)
    )


@contextmanager
def _serving(argv: list[str], port: int, folder: Path, expected: set[int]) -> Iterator[StoreSettings]:
    with Child(argv, {**inherited(), "HOME": str(folder)}, cwd=folder, log_file=folder / "log", grace=1) as server:

        def answers() -> bool:
            assert server.poll() is None, server.tail
            try:
                return httpx.get(f"http://127.0.0.1:{port}/none?list-type=2", timeout=5).status_code in expected
            except httpx.TransportError:
                return False

        until(answers, lambda: server.tail)
        yield _settings(port)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[StoreSettings]:
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [{"name": "tests", **keys}]}))
    ports = {
        f"{part}.port{kind}": free_port() for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")
    }
    options: dict[str, Any] = {
        **ports,
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.electionTimeout": "1s",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 0,
        "s3": "true",
        "s3.config": folder / "keys.json",
        "s3.domainName": HOST,
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    program = Path(sys.executable).with_name("weed")
    argv = [str(program), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]
    with _serving(argv, ports["s3.port"], folder, {403}) as settings:  # it refuses who has no keys
        yield settings


@contextmanager
def moto(folder: Path) -> Iterator[StoreSettings]:
    folder.mkdir(parents=True)
    port = free_port()
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(argv, port, folder, {404}) as settings:
        yield settings


@contextmanager
def rclone(folder: Path) -> Iterator[StoreSettings]:
    with EmbeddedStore(folder / "store", folder / "log") as settings:
        yield settings


SERVERS: dict[str, Callable[[Path], AbstractContextManager[StoreSettings]]] = {
    "rclone": rclone,
    "seaweedfs": seaweedfs,
    "moto": moto,
}


class Running:
    """Servers that were asked for once and go on until the end of the tests; every test gets a bucket of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._found: dict[str, StoreSettings] = {}

    def __call__(self, name: str) -> StoreSettings:
        if name not in self._found:
            self._found[name] = self._stack.enter_context(SERVERS[name](self._folder / name))
        return self._found[name].model_copy(update={"bucket": f"tests-{uuid.uuid4().hex[:12]}"})

    def close(self) -> None:
        self._stack.close()
