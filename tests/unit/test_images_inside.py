"""The programs that run inside the images while these are built, and the health check."""

from __future__ import annotations

import ast
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.images import inside
from infra.images.inside import healthy, path_overlay, prepare, sweep, unpack
from tests.support.architecture import imports

if TYPE_CHECKING:
    from collections.abc import Iterator

INSIDE = Path(inside.__file__).parent


def package(path: Path, files: dict[str, bytes]) -> Path:
    """A Debian package by hand (deb(5)): an ar archive with a compressed tar in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(data.getvalue())}
    whole = b"!<arch>\n"
    for name, content in members.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        whole += content + b"\n" * (len(content) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole)
    return path


def test_packages_are_unpacked_as_in_a_merged_system(tmp_path: Path) -> None:
    deb = package(
        tmp_path / "context/debs/a.deb",
        {
            "bin/tool": b"tool",
            "usr/bin/other": b"other",
            "usr/share/man/man1/tool.1.gz": b"",
            "usr/share/doc/a/changelog": b"",
            "usr/share/doc/a/copyright": b"(c)",
        },
    )
    with zipfile.ZipFile(tmp_path / "context/uv-1-py3-none-any.whl", "w"):
        pass
    (tmp_path / "context/wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "context/wheels/uv-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("uv-1.data/scripts/uv", "program")
    unpack.main(tmp_path / "context", tmp_path / "root", tmp_path / "uv")
    found = sorted(
        path.relative_to(tmp_path / "root").as_posix() for path in tmp_path.rglob("root/**/*") if path.is_file()
    )
    assert found == ["usr/bin/other", "usr/bin/tool", "usr/share/doc/a/copyright"]
    assert (tmp_path / "uv").read_text() == "program"
    assert os.access(tmp_path / "uv", os.X_OK)
    assert unpack.member(deb, "bin/tool") == b"tool"


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(SystemExit, match=r"odd\.deb is no Debian package"):
        unpack.member(tmp_path / "odd.deb", "x")


def test_bytecode_is_the_same_whenever_and_wherever_it_is_made(tmp_path: Path) -> None:
    """And is believed without a look at the source's date (PEP 552: flags 0b01)."""
    made = []
    for number, folder in enumerate((tmp_path / "a", tmp_path / "longer" / "b")):
        (folder / "package").mkdir(parents=True)
        for name in ("one", "two", "three", "four", "five"):
            (folder / "package" / f"{name}.py").write_text(
                f"KNOWN = {{'x', 'y', '{name}'}}\n\ndef f():\n    return KNOWN\n"
            )
            os.utime(folder / "package" / f"{name}.py", (number, number))
        (folder / "package" / "template.py").write_text("{% not python %}\n")
        subprocess.run(
            [sys.executable, INSIDE / "bytecode.py", folder, "/final"],
            check=True,
            env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]},
        )
        made.append({path.name: path.read_bytes() for path in sorted(folder.rglob("*.pyc"))})
    assert made[0] == made[1]
    assert len(made[0]) == 5
    for content in made[0].values():
        assert content[4:8] == b"\x01\x00\x00\x00"
        assert b"/final/package/" in content


def test_what_a_layer_beneath_has_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written again, the same file would be in both layers."""
    (tmp_path / "one.py").write_text("ONE = 1\n")
    below = tmp_path / "__pycache__" / f"one.{sys.implementation.cache_tag}.pyc"
    below.parent.mkdir()
    below.write_bytes(b"of the layer beneath")
    (tmp_path / "two.py").write_text("TWO = 2\n")
    subprocess.run([sys.executable, INSIDE / "bytecode.py", tmp_path], check=True, env={"PYTHONHASHSEED": "0"})
    assert below.read_bytes() == b"of the layer beneath"
    assert below.with_name(f"two.{sys.implementation.cache_tag}.pyc").exists()

    record = tmp_path / "env/lib/python3.11/site-packages/a-1.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_text("a.py,sha256=z,3\nb.py,sha256=x,1\n")
    os.utime(record, (1, 1))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(sweep, "TEMPORARY", tmp_path / "tmp")
    sweep.main(tmp_path / "env")
    assert record.stat().st_mtime == 1


def test_the_user_is_added_to_those_of_the_base(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("gives files to another user")
    key = tmp_path / "key"
    key.touch()
    prepare.main(tmp_path, key)
    lines = (tmp_path / "etc/passwd").read_text().splitlines()
    assert lines[-1] == "carwright:x:1001:0:Carwright:/home/carwright:/bin/sh"
    assert lines[0].startswith("root:")
    for name in ("home/carwright", "home/carwright/state", "home/carwright/cache", "var/lib/carwright"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1001, 0, 0o775), name
    assert stat.S_IMODE((tmp_path / "run/secrets").stat().st_mode) == 0o755
    assert not (tmp_path / "usr").exists(), "the hermetic build has no key, and one base for all"


def test_what_an_ordinary_build_installs_is_part_of_its_base(tmp_path: Path) -> None:
    """buildah looks at the layers below, not at what is mounted, to find out whether a step was done before."""
    if os.geteuid() != 0:
        pytest.skip("gives files to another user")
    (tmp_path / "key").write_text("sha256:0")
    prepare.main(tmp_path / "made", tmp_path / "key")
    assert (tmp_path / "made/usr/share/carwright/inputs").read_text() == "sha256:0"
    for name in ("usr", "usr/share", "usr/share/carwright"):
        assert stat.S_IMODE((tmp_path / "made" / name).stat().st_mode) == 0o755


def test_a_folder_behind_the_path_of_another_python(tmp_path: Path) -> None:
    """What that Python has of its own is found first."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (tmp_path / "ours").mkdir()
    python = tmp_path / "env/bin/python"
    subprocess.run([python, path_overlay.__file__, tmp_path / "ours"], check=True)
    path = subprocess.run([python, "-c", "import sys; print(sys.path[-1])"], check=True, capture_output=True, text=True)
    assert path.stdout.strip() == str(tmp_path / "ours")


def test_what_the_installer_writes_about_itself_is_put_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "env/lib/python3.11/site-packages/a-1.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text("b.py,sha256=x,1\na-1.dist-info/uv_cache.json,sha256=y,2\na.py,sha256=z,3\n")
    (info / "uv_cache.json").write_text("{}")
    (tmp_path / "tmp/folder").mkdir(parents=True)
    (tmp_path / "tmp/file").touch()
    monkeypatch.setattr(sweep, "TEMPORARY", tmp_path / "tmp")
    sweep.main(tmp_path / "env")
    assert (info / "RECORD").read_text() == "a.py,sha256=z,3\nb.py,sha256=x,1\n"
    assert [path.name for path in info.iterdir()] == ["RECORD"]
    assert not list((tmp_path / "tmp").iterdir())


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answering) as there:
        threading.Thread(target=there.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{there.server_address[1]}"
        there.shutdown()


def test_a_service_is_healthy_when_it_answers(server: str) -> None:
    """Also when it asks for a login first."""
    assert [healthy.main(f"{server}/{code}") for code in (200, 401, 403, 500, 503)] == [0, 0, 0, 1, 1]
    assert healthy.main("http://127.0.0.1:9/") == 1


def test_nothing_inside_needs_a_library() -> None:
    """They run before anything is installed: what they import is the standard library's."""
    programs = [path for path in INSIDE.glob("*.py") if path.name != "__init__.py"]
    assert {"bytecode.py", "healthy.py", "offline.py", "prepare.py", "unpack.py"} <= {path.name for path in programs}
    for path in programs:
        imported = {name.partition(".")[0] for _, name in imports(ast.parse(path.read_text()), path.name)}
        assert imported <= sys.stdlib_module_names, path.name
