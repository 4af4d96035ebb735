"""Small wheels, pins of them, and a package index on loopback that serves a folder of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
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


# A build backend as pip calls it (PEP 517), for packages of one module; what it leaves in them says which one it was.
_BACKEND = """
import os, re, zipfile
{at_import}
def _named(folder="."):
    text = open(os.path.join(folder, "PKG-INFO")).read()
    return [re.search("(?m)^" + key + ": (.*)$", text)[1] for key in ("Name", "Version")]
class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return {asks!r}
    def build_wheel(self, wheel_directory, config_settings=None, metadata_directory=None):
        name, version = _named()
        info = name + "-" + version + ".dist-info"
        file = name + "-" + version + "-py3-none-any.whl"
        with zipfile.ZipFile(os.path.join(wheel_directory, file), "w") as archive:
            archive.writestr(name + ".py", "BUILT_BY = {version!r}")
            archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n")
            archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
            archive.writestr(info + "/RECORD", "")
        return file
__legacy__ = _Backend()
get_requires_for_build_wheel, build_wheel = __legacy__.get_requires_for_build_wheel, __legacy__.build_wheel
"""


def build_tool(folder: Path, name: str, version: str, *, at_import: str = "", asks: tuple[str, ...] = ()) -> Path:
    """A wheel that builds source packages as setuptools does; `at_import` is what else it does, `asks` what it wants more."""
    path = wheel(folder, name, version)
    source = _BACKEND.format(at_import=at_import, asks=list(asks), version=version).replace("\\\\n", "\\n")
    with zipfile.ZipFile(path) as archive:
        kept = {one: archive.read(one) for one in archive.namelist() if one != f"{name}.py"}
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in kept.items():
            archive.writestr(one, content)
        archive.writestr(f"{name}/__init__.py", at_import)
        archive.writestr(f"{name}/build_meta.py", source)
    return path


def source(folder: Path, name: str, pyproject: str) -> Path:
    """A source package (sdist) of one module; without `pyproject` one of the old kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0.tar.gz"
    files = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "setup.py": "", f"{name}.py": ""}
    if pyproject:
        files["pyproject.toml"] = pyproject
    with tarfile.open(path, "w:gz") as archive:
        for one, text in files.items():
            info = tarfile.TarInfo(f"{name}-1.0/{one}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def pin(path: Path) -> str:
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
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
            found = sorted(path for path in folder.glob("*-*") if path.name.partition("-")[0] == name)
            page = "".join(f'<a href="{quote(path.name)}">{path.name}</a>' for path in found).encode()
            file = folder / name
            body = page if self.path.endswith("/") else file.read_bytes() if file.is_file() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
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
