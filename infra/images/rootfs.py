"""The base image's file system: mmdebstrap unpacks the locked packages, independent of the machine.

    python -m infra.images.rootfs FOLDER STATUS    (called by mmdebstrap, on the unpacked system)

No maintainer script runs and no package manager is left inside: what those would have made (certificates, a record of the
packages for scanners, Python's bytecode) is made here, in a fixed way.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, DiskFull, Error
from containers.events import Event
from containers.process import Child, inherited, run
from infra.images import debian, inside
from infra.images.wheels import link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infra.images.debian import Deb

_INSIDE: Final = Path(inside.__file__).parent
_HOOKS: Final = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_EXCLUDED: Final = (
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/gdb/*",
    "/usr/share/gcc/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",  # iconv's tables: Python has codecs of its own
    "/usr/lib/python3.11/pydoc_data/*",
    "/usr/lib/binfmt.d/*",
)
_REMOVED: Final = (  # the package managers' own, and what mmdebstrap copies from this machine
    "boot",
    "etc/apt",
    "etc/dpkg/dpkg.cfg.d",
    "etc/fstab",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/update-motd.d",
    "lib32",
    "libx32",
    "usr/games",
    "usr/include",
    "usr/lib32",
    "usr/libx32",
    "usr/share/doc-base",
    "var/backups",
    "var/cache/apt",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log/apt",
)


def base_key(debs: Sequence[Deb]) -> str:
    """What the base depends on, as 16 hex digits: the packages and the code that unpacks them."""
    digest = hashlib.sha256("".join(deb.line for deb in debs).encode())
    for path in (Path(__file__), _INSIDE / "bytecode.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_base(debs: Sequence[Deb], packages: Path, output: Path, on_event: Callable[[Event], None]) -> None:
    """Write the base's tar; `packages` is the folder of their files. The same packages give the same bytes.

    Raises BadInput when mmdebstrap is missing, DiskFull.
    """
    if shutil.which("mmdebstrap") is None:
        raise BadInput(
            "mmdebstrap is not installed; it makes the base image",
            remedy="install it (Debian: apt-get install mmdebstrap), or give a base by digest: --base REFERENCE@sha256:...",
        )
    on_event(Event(event="log", message=f"making the base from {len(debs)} Debian packages with mmdebstrap"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=output.parent) as scratch:
        repository = Path(scratch, "repository")
        link([debian.path_of(deb, packages) for deb in debs], repository)
        status = _index(debs, repository)
        Path(scratch, "status").write_text(status)
        hook = f'{shlex.quote(sys.executable)} -m infra.images.rootfs "$1" {shlex.quote(str(Path(scratch, "status")))}'
        argv = ["mmdebstrap", "--variant=extract", "--format=tar", f"--architectures={debian.ARCHITECTURE}"]
        argv += [f"--include={','.join(deb.name for deb in debs)}", f"--hook-dir={_HOOKS}", f"--extract-hook={hook}"]
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
        argv += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        argv += [
            "--dpkgopt=force-unsafe-io",
            "--skip=output/dev,cleanup",
            debian.requested()[0],
            str(Path(scratch, "base.tar")),
        ]
        argv.append(f"deb [trusted=yes] copy://{repository} ./")
        variables = {**inherited(), "SOURCE_DATE_EPOCH": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        with Child(argv, variables) as child:
            code = child.wait()
        if code != 0:
            if "No space left" in child.tail:
                raise DiskFull(f"no space left under {output.parent}", remedy="free some space, or set CARWRIGHT_CACHE")
            raise Error(f"mmdebstrap ended with code {code}:\n{child.tail}")
        Path(scratch, "base.tar").replace(output)


def _index(debs: Sequence[Deb], repository: Path) -> str:
    """Make the folder a repository of apt (Packages); returns the record of them as installed packages (dpkg's status).

    The index names no dependencies: base.in lists all there is, and nothing is to be resolved.
    """
    packages, status = [], []
    for deb in debs:
        path = debian.path_of(deb, repository)
        fields = run(["dpkg-deb", "--field", str(path)], timeout=60).stdout.rstrip()
        packages.append(
            f"Package: {deb.name}\nVersion: {deb.version}\nArchitecture: {debian.ARCHITECTURE}\n"
            f"Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {deb.sha256}\n"
        )
        first, _, rest = fields.partition("\n")
        status.append(f"{first}\nStatus: install ok installed\n{rest}\n")
    (repository / "Packages").write_text("\n".join(packages))
    return "\n".join(status)


def finish(root: Path, status: str) -> None:
    """Complete the unpacked system at `root`."""
    for name in _REMOVED:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    record = root / "var/lib/dpkg/status"
    record.parent.mkdir(parents=True)
    record.write_text(status)
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"), key=lambda path: path.name)
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.write_text("".join(path.read_text() for path in certificates))
    (root / "usr/lib/ssl").mkdir(exist_ok=True)
    for link_, place in {
        "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
        "usr/bin/python3": "python3.11",
    }.items():
        (root / link_).unlink(missing_ok=True)
        (root / link_).symlink_to(place)
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    shutil.copyfile(root / "usr/share/libc-bin/nsswitch.conf", root / "etc/nsswitch.conf")
    shutil.copyfile(_INSIDE / "bytecode.py", root / "tmp/bytecode.py")
    variables = {"PATH": "/usr/bin:/usr/sbin", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    for command in (["ldconfig"], ["python3.11", "/tmp/bytecode.py", "/usr/lib/python3.11"]):  # noqa: S108 - inside
        run(["chroot", str(root), *command], env=variables)
    for name in ("tmp", "var/log", "var/cache/ldconfig"):  # mmdebstrap's own, logs, and a cache that holds dates
        for path in (root / name).iterdir():
            path.unlink()


if __name__ == "__main__":
    finish(Path(sys.argv[1]), Path(sys.argv[2]).read_text())
