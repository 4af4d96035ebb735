"""Runs a program with the login of the Prefect API in its environment.

    python -m infra.with_login [--folder FOLDER] PROGRAM [ARGUMENT ...]

The folder, /run/login by default, holds files named like Prefect's settings (PREFECT_API_AUTH_STRING, or PREFECT_API_KEY
for Prefect Cloud). Workers and flow runs start this way, so that the login is in no `docker inspect` and no `ps`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from containers.errors import BadInput
from containers.process import become

FOLDER: Final = Path("/run/login")


def read(folder: Path) -> dict[str, str]:
    """The settings in the folder; raises BadInput when there is none."""
    found = {path.name: path.read_text().strip() for path in folder.glob("PREFECT_*")}
    if not all(found.values()) or not found:
        raise BadInput(
            f"there is no login for the Prefect API in {folder}",
            remedy="mount the volume that infra.credentials writes, or a folder with a file PREFECT_API_AUTH_STRING",
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.with_login", description="Run a program with the login.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("which program?")
    try:
        become(arguments.program, read(arguments.folder))
    except BadInput as error:
        print(f"{error.message}\n{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
