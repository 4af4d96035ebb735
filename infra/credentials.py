"""Makes the key pair of the object store once, as files named like the settings that read them.

    python -m infra.credentials FOLDER [--owner UID[:GID]]

CARWRIGHT_STORE__ACCESS_KEY_ID and CARWRIGHT_STORE__SECRET_ACCESS_KEY, readable by their owner alone. What is there
already stays: the store's data and its clients outlive a restart. infra/compose.yaml runs this before anything else, in
a volume that the store and the flow runs read; so no key is in git, in an environment or on a command line.
"""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from typing import Final

KEY_ID: Final = "CARWRIGHT_STORE__ACCESS_KEY_ID"
SECRET: Final = "CARWRIGHT_STORE__SECRET_ACCESS_KEY"  # noqa: S105 - a file's name
_BYTES: Final = {KEY_ID: 10, SECRET: 20}


def ensure(folder: Path, owner: tuple[int, int] | None = None) -> list[str]:
    """The names of the files that had to be made. `owner` (uid, gid) gets the folder and them: only root may give."""
    made = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in _BYTES.items():
        path = folder / name
        if not path.exists():
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.touch(mode=0o400)
            temporary.chmod(0o600)
            temporary.write_text(secrets.token_hex(size))
            temporary.chmod(0o400)
            temporary.rename(path)
            made.append(name)
        if owner is not None:
            os.chown(path, *owner)
    folder.chmod(0o500)
    if owner is not None:
        os.chown(folder, *owner)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.credentials", description="Make the object store's keys.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--owner", default="", metavar="UID[:GID]", help="who may read them; only root may give")
    arguments = parser.parse_args()
    user, _, group = arguments.owner.partition(":")
    made = ensure(arguments.folder, (int(user), int(group or user)) if user else None)
    print(f"made {', '.join(made)}" if made else "the keys are there", flush=True)


if __name__ == "__main__":
    main()
