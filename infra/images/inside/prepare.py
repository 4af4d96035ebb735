"""Write what every image has beyond its base into a folder: the user, its home, and places for data and secrets.

    python prepare.py FOLDER KEY

The user is 1001 of group 0, and the home is the group's too: clusters that give every container a number of its own
(OpenShift) keep group 0. KEY is a file with the digest of what an ordinary build installs; it becomes a file of every image, so
that a builder that does not look into mounts (buildah) installs again when that changes. The hermetic build leaves it empty.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

UID, GID = 1001, 0
HOME = "/home/carwright"


def main(folder: Path, key: Path) -> None:
    os.umask(0)
    (folder / "etc").mkdir(mode=0o755, parents=True)
    _add("etc/passwd", f"carwright:x:{UID}:{GID}:Carwright:{HOME}:/bin/sh", folder)
    _add("etc/group", "root:x:0:", folder)
    for name in (HOME, f"{HOME}/state", f"{HOME}/cache", "/var/lib/carwright"):
        path = folder / name[1:]
        path.mkdir(mode=0o775, parents=True)
        os.chown(path, UID, GID)
    (folder / "run/secrets").mkdir(mode=0o755, parents=True)
    places = ["home", "run", "var", "var/lib"]
    if digest := key.read_text():
        places += ["usr", "usr/share", "usr/share/carwright"]
        (folder / places[-1]).mkdir(parents=True)
        (folder / "usr/share/carwright/inputs").write_text(digest)
        (folder / "usr/share/carwright/inputs").chmod(0o644)
    for name in places:
        (folder / name).chmod(0o755)


def _add(name: str, line: str, folder: Path) -> None:
    """The base's file with the line at its end, unless that entry is there."""
    there = Path("/", name)
    lines = there.read_text().splitlines() if there.exists() else []
    if not any(known.partition(":")[0] == line.partition(":")[0] for known in lines):
        lines.append(line)
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
