"""Builds the wheel and the sdist of this checkout and checks them: `make release`.

    python -m infra.release [--output dist]

Checked are the metadata (PEP 566 and later, as `packaging` reads it), that the sdist builds the very same wheel, that the
change log has an entry for the version, and that the wheel, installed with the locked packages into an empty environment,
answers `carwright --version`. Builds are reproducible: the same commit gives the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from packaging.metadata import Metadata

from containers.errors import BadInput, Error
from containers.process import inherited, run

ROOT: Final = Path(__file__).resolve().parents[1]
_EPOCH: Final = "1577836800"  # 2020-01-01: zip files know no year before 1980, so 0 is not one of their dates
_BUILD: Final = 300.0  # seconds
_INSTALL: Final = 900.0


def build(source: Path, output: Path) -> tuple[Path, Path]:
    """Wheel and sdist of the project in `source`; raises ProcessFailed with hatchling's output."""
    argv = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--directory",
        str(output),
        "--target",
        "sdist",
        "--target",
        "wheel",
    ]
    run(argv, env={**inherited(), "SOURCE_DATE_EPOCH": _EPOCH}, cwd=source, timeout=_BUILD)
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def check_metadata(wheel: Path) -> Metadata:
    """The metadata of a wheel; raises BadInput for what the core metadata specification forbids."""
    with zipfile.ZipFile(wheel) as archive:
        # At the top: further down are those of packages that are data, such as vLLM's plugin.
        (name,) = (one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one))
        content = archive.read(name)
    try:
        return Metadata.from_email(content)
    except ExceptionGroup as group:
        raise BadInput(f"{wheel.name}: {'; '.join(map(str, group.exceptions))}") from group


def check_changelog(version: str, changelog: Path) -> None:
    """Raises BadInput unless the change log has a section for the version."""
    if not re.search(rf"^## {re.escape(version)}( |$)", changelog.read_text(), re.MULTILINE):
        raise BadInput(
            f"{changelog.name} has no section for version {version}",
            remedy=f"move the entries under Unreleased below a heading `## {version}`",
        )


def check_rebuild(wheel: Path, sdist: Path, scratch: Path) -> None:
    """Raises BadInput unless the sdist alone builds the same wheel, to the byte."""
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (source,) = (scratch / "sdist").iterdir()
    again, _ = build(source, scratch / "again")
    if _digest(again) != _digest(wheel):
        with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
            first, second = ({info.filename: info.CRC for info in archive.infolist()} for archive in (one, other))
        differ = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        raise BadInput(f"the sdist builds another wheel; different: {', '.join(differ) or 'the order of its files'}")


def check_installation(wheel: Path, version: str, scratch: Path) -> None:
    """Raises BadInput unless `carwright --version` names the version, in an environment of the lock and this wheel."""
    environment = scratch / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], env=inherited(), timeout=_BUILD)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(environment / "bin" / "python"),
        "install",
        "--quiet",
        "--no-deps",
    ]
    lock = ["--require-hashes", "--only-binary=:all:", "--no-compile", "-r", str(ROOT / "flows" / "requirements.lock")]
    run([*pip, *lock], env=inherited("PIP_", "XDG_CONFIG_"), timeout=_INSTALL)
    run([*pip, "--no-index", str(wheel)], env=inherited("PIP_", "XDG_CONFIG_"), timeout=_INSTALL)
    command = [str(environment / "bin" / "carwright"), "--version"]
    printed = run(command, env=inherited(), cwd=scratch, timeout=60).stdout.strip()
    if printed != f"carwright {version}":
        raise BadInput(f"the installed wheel calls itself {printed!r}, and not version {version}")


def release(output: Path) -> list[Path]:
    """Build and check; the files are in `output`, which is emptied first. Raises Error and leaves nothing there."""
    shutil.rmtree(output, ignore_errors=True)
    try:
        wheel, sdist = build(ROOT, output)
        metadata = check_metadata(wheel)
        check_changelog(str(metadata.version), ROOT / "CHANGELOG.md")
        with tempfile.TemporaryDirectory(prefix="carwright-release-") as scratch:
            check_rebuild(wheel, sdist, Path(scratch))
            check_installation(wheel, str(metadata.version), Path(scratch))
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return [wheel, sdist]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.release", description="Build wheel and sdist, and check them."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the two files; emptied first")
    options = parser.parse_args(arguments)
    try:
        for path in release(options.output):
            print(f"{_digest(path)}  {path}")
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
