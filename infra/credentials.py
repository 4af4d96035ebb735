"""Makes the secrets of a site once, as files named like the settings that read them.

    python -m infra.credentials FOLDER [--login FOLDER] [--database FOLDER] [--owner UID[:GID]] [--from GIVEN]

The key pair of the object store, CARWRIGHT_STORE__ACCESS_KEY_ID and CARWRIGHT_STORE__SECRET_ACCESS_KEY, and in a folder of
its own the login of the Prefect API, PREFECT_API_AUTH_STRING: the store has no use for the login, nor the Prefect server for
the keys. `--database` is for the password of Prefect's PostgreSQL, PREFECT_SERVER_DATABASE_PASSWORD. All are readable by
their owner only. Existing secrets are kept, because data and clients outlive a restart.
infra/compose.yaml runs this before anything else, in volumes that those who need them read; so no secret is in git, in an
environment or on a command line. With `--from` nothing is generated: the files of that folder are copied (a GPU host gets
the keys of a store and the login of a server elsewhere). With `--from -` the folder's files become those on standard input, a JSON
object of names and contents (a dry run's keys that sign).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY_ID: Final = "CARWRIGHT_STORE__ACCESS_KEY_ID"
SECRET: Final = "CARWRIGHT_STORE__SECRET_ACCESS_KEY"  # noqa: S105 - a file's name
LOGIN: Final = "PREFECT_API_AUTH_STRING"
DATABASE: Final = "PREFECT_SERVER_DATABASE_PASSWORD"
_PREFECT: Final = "PREFECT_"


def new_login() -> str:
    """A new random login, user:password."""
    return f"carwright:{secrets.token_urlsafe(32)}"


_KEYS: Final[dict[str, Callable[[], str]]] = {
    KEY_ID: lambda: secrets.token_hex(10),
    SECRET: lambda: secrets.token_hex(20),
}


def ensure(folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """Create missing keys; returns the names of new ones. `owner` (uid, gid) owns folder and keys; only root may set it."""
    return _ensure(folder, _KEYS, owner)


def ensure_login(folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """The same for the login."""
    return _ensure(folder, {LOGIN: new_login}, owner)


def ensure_database(folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """The same for the password of the database."""
    return _ensure(folder, {DATABASE: lambda: secrets.token_urlsafe(32)}, owner)


def _ensure(folder: Path, kinds: Mapping[str, Callable[[], str]], owner: tuple[int, int] | None) -> list[str]:
    made = {name: make() for name, make in kinds.items() if not (folder / name).exists()}
    _write(folder, made, owner)
    return sorted(made)


def copy_given(given: Path, folder: Path, owner: tuple[int, int] | None = None, login: Path | None = None) -> list[str]:
    """Copy the files in `given` to `folder`, those of Prefect to `login`; returns their names.

    Raises BadInput when there is none, and with `login` none of Prefect.
    """
    found = {path.name: path.read_text() for path in given.iterdir() if path.is_file()} if given.is_dir() else {}
    if not found:
        raise BadInput(f"there are no keys in {given}", remedy=f"put one file for each setting there, such as {KEY_ID}")
    ours = {name: text for name, text in found.items() if login is None or not name.startswith(_PREFECT)}
    _write(folder, ours, owner)
    if login is not None:
        theirs = {name: text for name, text in found.items() if name not in ours}
        if not theirs:
            raise BadInput(f"there is no {LOGIN} in {given}", remedy="put the login of the Prefect API there")
        _write(login, theirs, owner)
    return sorted(found)


def replace_all(folder: Path, files: Mapping[str, str], owner: tuple[int, int] | None = None) -> list[str]:
    """Make these the files of the folder; returns their names. Raises BadInput for a name that is a path."""
    if wrong := [name for name in files if Path(name).name != name]:
        raise BadInput(f"{wrong[0]!r} is not the name of a file")
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
    _write(folder, files, owner)
    return sorted(files)


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
    parser = argparse.ArgumentParser(prog="python -m infra.credentials", description="Create the secrets of a site.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--login", type=Path, metavar="FOLDER", help="folder for the login of the Prefect API")
    parser.add_argument("--database", type=Path, metavar="FOLDER", help="folder for the password of Prefect's database")
    parser.add_argument("--owner", default="", metavar="UID[:GID]", help="owner of the files; only root may set it")
    parser.add_argument("--from", type=Path, dest="given", help="folder with existing secrets to copy")
    arguments = parser.parse_args()
    user, _, group = arguments.owner.partition(":")
    owner = (int(user), int(group or user)) if user else None
    if arguments.given == Path("-"):
        print(f"wrote {', '.join(replace_all(arguments.folder, json.load(sys.stdin), owner))}", flush=True)
    elif arguments.given is not None:
        brought = copy_given(arguments.given, arguments.folder, owner, arguments.login)
        print(f"copied {', '.join(brought)}", flush=True)
    else:
        made = ensure(arguments.folder, owner)
        if arguments.login is not None:
            made += ensure_login(arguments.login, owner)
        if arguments.database is not None:
            made += ensure_database(arguments.database, owner)
        print(f"created {', '.join(made)}" if made else "the keys exist already", flush=True)


if __name__ == "__main__":
    main()
