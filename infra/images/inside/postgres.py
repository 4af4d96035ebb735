"""Start PostgreSQL, and make its database the first time: the program of the image postgres.

    python postgres.py PASSWORD_FILE [DATA]

The user is carwright, and every connection needs the password. A first start that was cut off begins again.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
DATA = Path("/var/lib/carwright/postgres-15")  # a later version cannot read what this one wrote
USER = "carwright"


def initialize(data: Path, password: Path, programs: Path = PROGRAMS) -> None:
    """Make the cluster under another name first, so that it is there whole or not at all."""
    new = data.with_name(f".{data.name}")
    shutil.rmtree(new, ignore_errors=True)
    argv = [str(programs / "initdb"), f"--pgdata={new}", f"--username={USER}", f"--pwfile={password}"]
    argv += ["--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    if code := os.spawnv(os.P_WAIT, argv[0], argv):  # noqa: S606 - an argument list, and no shell is wanted
        sys.exit(code)
    with (new / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    new.rename(data)


def main(password: Path, data: Path = DATA) -> None:
    if not data.exists():
        initialize(data, password)
    server = str(PROGRAMS / "postgres")
    options = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]
    os.execv(server, [server, "-D", str(data), *options])  # noqa: S606 - an argument list, and no shell is wanted


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
