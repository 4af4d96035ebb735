"""Serve a folder of repositories until SIGINT or SIGTERM; on loopback, unless told otherwise.

    python -m infra.hub --root DIR [--port N] [--cdn-port N] [--host ADDRESS --name NAME] [--publish org/name=FOLDER ...]
    python -m infra.hub --root DIR --publish org/name=FOLDER --date 2026-01-31 --no-serve

The first line on standard output is the endpoint: give it to clients as HF_ENDPOINT.
"""

from __future__ import annotations

import argparse
import signal
import threading
from datetime import datetime
from pathlib import Path

from infra.hub import Fault, Hub, Repositories
from infra.hub.server import HOST


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.hub", description="A local Hugging Face hub.")
    parser.add_argument("--root", type=Path, required=True, help="folder with the repositories; created if missing")
    parser.add_argument("--port", type=int, default=0, help="port of the API; 0 takes a free one")
    parser.add_argument("--cdn-port", type=int, default=0, help="port that LFS files come from; 0 takes a free one")
    parser.add_argument("--host", default=HOST, help="address to listen on; another one than loopback needs --name")
    parser.add_argument("--name", default=HOST, help="host name or address that clients know it by")
    parser.add_argument("--publish", action="append", default=[], metavar="ORG/NAME=FOLDER", help="publish on main")
    parser.add_argument("--date", type=datetime.fromisoformat, help="date of the published commit; default: now")
    parser.add_argument("--rate", type=int, help="bytes per second of each connection that large files come over")
    parser.add_argument("--no-serve", action="store_true", help="publish, then exit")
    arguments = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    repositories = Repositories(arguments.root)
    for argument in arguments.publish:
        repo_id, _, folder = argument.partition("=")
        if repo_id.count("/") != 1 or not Path(folder).is_dir():
            parser.error(f"--publish needs ORG/NAME=FOLDER with an existing folder: {argument!r}")
        repositories.publish(repo_id, Path(folder), date=arguments.date, link=arguments.no_serve)
    if arguments.no_serve:
        return
    where = {"host": arguments.host, "name": arguments.name, "port": arguments.port, "cdn_port": arguments.cdn_port}
    with Hub(repositories, **where) as hub:
        if arguments.rate is not None:
            hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=arguments.rate))
        print(hub.endpoint, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
