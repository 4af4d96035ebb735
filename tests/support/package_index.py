"""Small wheels, pins of them, and a package index on loopback that serves a folder of them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def wheel(folder: Path, name: str = "tiny", version: str = "1.0") -> Path:
    """A wheel with one module (the binary distribution format, PEP 427)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def pin(path: Path) -> str:
    name, version = path.name.split("-")[:2]
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@dataclass
class Index:
    """A package index on loopback (PEP 503) over a folder of wheels; `asked` are the paths that were requested."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple"

    @property
    def projects(self) -> set[str]:
        """The projects whose page was asked for."""
        return {path.split("/")[2] for path in self.asked if path.endswith("/")}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Index]:
    index = Index(folder)
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            name = unquote(self.path.rstrip("/").rpartition("/")[2])
            found = sorted(path for path in folder.glob("*.whl") if path.name.partition("-")[0] == name)
            page = "".join(f'<a href="{quote(path.name)}">{path.name}</a>' for path in found).encode()
            file = folder / name
            body = page if self.path.endswith("/") else file.read_bytes() if file.is_file() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
