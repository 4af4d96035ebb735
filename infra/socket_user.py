"""Runs a program as Carwright's user, with the group that may use the container engine's socket.

    python -m infra.socket_user [--socket FILE] PROGRAM [ARGUMENT ...]

The number of that group differs from machine to machine, and Compose cannot ask for it. So the worker's container starts as
root with no capability but the two that a change of user and groups takes; both are gone when the program starts. As any
other user the program is started as it is (`group_add` gave the group).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from containers.errors import BadInput
from containers.process import become
from infra.hardening import USER

SOCKET: Final = Path("/var/run/docker.sock")


def group_of(socket: Path) -> int:
    """The id of the group that owns the socket; raises BadInput if there is none."""
    try:
        return socket.stat().st_gid
    except OSError as error:
        raise BadInput(
            f"the socket of the container engine is not at {socket}: {error.strerror}",
            remedy="set CARWRIGHT_SOCKET to its place on the engine's machine (docs/how-to/dry-run.md)",
        ) from error


def check(socket: Path, group: int) -> None:
    """Raises BadInput unless this process may use the socket."""
    if not os.access(socket, os.R_OK | os.W_OK):
        raise BadInput(
            f"user {os.getuid()} with group {group} may not use the container engine's socket {socket}",
            remedy="let its group read and write it: chmod g+rw, or SocketMode=0660 in its systemd unit",
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.socket_user", description="Run a program for the socket.")
    parser.add_argument("--socket", type=Path, default=SOCKET)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("which program?")
    try:
        group = group_of(arguments.socket)
        if os.geteuid() == 0:
            os.setgroups([group])
            os.setgid(0)  # the group of the image's user
            os.setuid(USER)
        check(arguments.socket, group)
        become(arguments.program, {})
    except BadInput as error:
        print(f"{error.message}\n{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
