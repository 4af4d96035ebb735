"""The Prefect server as Carwright starts it: it requires a login and answers only under its own host names.

    python -m flows.orchestrator.prefect_server --login FILE [--host ADDRESS] [--port NUMBER] [--public URL]
        [--name HOST[,HOST ...]] [--database sqlite|postgres] [--database-host HOST[:PORT]]

A client of the API can start programs on the machines of its workers (docs/security.md). So, beyond what
`prefect server start` does: a login is required; a request that changes something needs a token that only logged-in clients
get (CSRF); web pages of other origins get no answers (CORS); and requests for a foreign Host are refused, which keeps out
pages that point their own name at loopback (DNS rebinding). Prefect itself has no protection against the last.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from containers.errors import BadInput, Error
from containers.ports import beside
from containers.private import UMASK
from containers.process import export
from flows.orchestrator import postgres

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK: Final = ("127.0.0.1", "localhost")


def server_settings(login: str, public: str) -> dict[str, str]:
    """Settings of a Prefect server that requires the login; `public` is the URL of its UI for browsers."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # In memory, which is Prefect's default, a server that starts again forgets who holds a slot, and it is never freed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(public)),
        "PREFECT_UI_API_URL": f"{public}/api",
        "PREFECT_UI_URL": public,
    }


def origins(public: str) -> list[str]:
    """The origins of the UI itself; a page opened as localhost sends requests to 127.0.0.1."""
    url = urlsplit(public)
    port = f":{url.port}" if url.port else ""
    names = LOOPBACK if url.hostname in LOOPBACK else (url.hostname or "",)
    return [f"{url.scheme}://{name}{port}" for name in names]


def read_login(file: Path) -> str:
    """The login in a file; raises BadInput if there is none, because a server without a login must not start."""
    try:
        login = file.read_text().strip()
    except OSError as error:
        raise BadInput(f"the login of the Prefect server cannot be read: {error}") from error
    user, _, password = login.partition(":")
    if not user or not password or not login.isascii():
        raise BadInput(f"{file} holds no login", remedy="write user:password, in ASCII")
    return login


def create_app(names: tuple[str, ...]) -> ASGIApp:
    """Prefect's server with its UI and services, with the settings of this process, for requests to these hosts."""
    gc.disable()  # nothing of all that is loaded here is garbage: looking for some takes a tenth of the start
    from prefect.server.api.server import create_app as prefect_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Wrapped around the server: its own services call it in memory, under another host name.
    app = TrustedHostMiddleware(prefect_app(final=True), allowed_hosts=names, www_redirect=False)
    gc.freeze()
    gc.enable()
    return app


def free_leases() -> None:
    """Remove the lock of the leases, which a killed server leaves: in a container the next one has the same process id, takes
    the lock for one that is held, and waits for itself. One server alone has this PREFECT_HOME.
    """
    from prefect.settings import PREFECT_HOME

    (PREFECT_HOME.value() / "concurrency_leases" / "expirations.lock").unlink(missing_ok=True)


def main() -> None:
    """Run the server until it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.orchestrator.prefect_server", description="A Prefect server with a login."
    )
    parser.add_argument("--login", type=Path, required=True, help="file with user:password")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument(
        "--public", default="", metavar="URL", help="URL of the UI for browsers (default: http://127.0.0.1:PORT)"
    )
    parser.add_argument("--name", action="append", default=[], help="host name that clients use, besides loopback")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="where its data is")
    parser.add_argument("--database-host", default="postgres:5432", metavar="HOST[:PORT]", help="of PostgreSQL")
    parser.add_argument("--database-password", type=Path, default=postgres.PASSWORD_FILE, metavar="FILE")
    arguments = parser.parse_args()
    database: dict[str, str] = {}
    try:
        login = read_login(arguments.login)
        if arguments.database == "postgres":
            host, _, port = arguments.database_host.partition(":")
            password = postgres.read_password(arguments.database_password)
            postgres.wait(host, int(port or 5432), password)
            database = postgres.database_settings(host, int(port or 5432), password)
    except BadInput as error:
        parser.error(str(error))
    except Error as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    os.umask(UMASK)  # its database, too
    # Prefect reads its settings once, when it is imported.
    export(server_settings(login, arguments.public or f"http://127.0.0.1:{arguments.port}") | database)
    free_leases()
    import uvicorn

    given = (name.strip() for names in arguments.name for name in names.split(","))
    config = uvicorn.Config(create_app((*LOOPBACK, *filter(None, given))), timeout_keep_alive=5, log_level="warning")
    # Not by address: uvicorn's own socket could not be bound to a port that `containers.ports.claimed` holds for it.
    with beside(arguments.port, arguments.host) as listening:
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
