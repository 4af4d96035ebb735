"""Makes the key pair of the object store once, as files named like the settings that read them.

    python -m infra.credentials FOLDER [--owner UID[:GID]] [--from GIVEN]

CARWRIGHT_STORE__ACCESS_KEY_ID and CARWRIGHT_STORE__SECRET_ACCESS_KEY, readable by their owner alone. What is there
already stays: the store's data and its clients outlive a restart. infra/compose.yaml runs this before anything else, in
a volume that the store and the flow runs read; so no key is in git, in an environment or on a command line. With
`--from` nothing is made up: every file of that folder is brought in anew (a GPU host gets the keys of a store elsewhere).
"""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_ID: Final = "CARWRIGHT_STORE__ACCESS_KEY_ID"
SECRET: Final = "CARWRIGHT_STORE__SECRET_ACCESS_KEY"  # noqa: S105 - a file's name
_BYTES: Final = {KEY_ID: 10, SECRET: 20}


def ensure(folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """The names of the files that had to be made. `owner` (uid, gid) gets the folder and them: only root may give."""
    made = {name: secrets.token_hex(size) for name, size in _BYTES.items() if not (folder / name).exists()}
    _write(folder, made, owner)
    return sorted(made)


def bring(given: Path, folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """The names of the files of `given`, which are in `folder` now. Raises BadInput when there is none."""
    found = {path.name: path.read_text() for path in given.iterdir() if path.is_file()} if given.is_dir() else {}
    if not found:
        raise BadInput(f"there are no keys in {given}", remedy=f"put files like {KEY_ID} there, one for each setting")
    _write(folder, found, owner)
    return sorted(found)


def _write(folder: Path, files: Mapping[str, str], owner: tuple[int, int] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, content in files.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.touch(mode=0o600)
        temporary.write_text(content)
        temporary.chmod(0o400)
        temporary.rename(folder / name)
    if owner is not None:
        for path in (*folder.iterdir(), folder):
            os.chown(path, *owner)
    folder.chmod(0o500)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.credentials", description="Make the object store's keys.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--owner", default="", metavar="UID[:GID]", help="who may read them; only root may give")
    parser.add_argument("--from", type=Path, dest="given", help="folder with files to bring in instead")
    arguments = parser.parse_args()
    user, _, group = arguments.owner.partition(":")
    owner = (int(user), int(group or user)) if user else None
    if arguments.given is not None:
        print(f"brought {', '.join(bring(arguments.given, arguments.folder, owner))}", flush=True)
    else:
        made = ensure(arguments.folder, owner)
        print(f"made {', '.join(made)}" if made else "the keys are there", flush=True)


if __name__ == "__main__":
    main()
