"""The Prefect server as Carwright starts it: who has no login gets nothing, and it answers to its own names alone.

    python -m flows.orchestrator.prefect_server --login FILE [--host ADDRESS] [--port NUMBER] [--public URL] [--name HOST[,HOST ...]]

Whoever may use the API starts programs where its workers are (docs/security.md). So, on top of what `prefect server start`
does: a login is demanded; a request that changes something needs a token that only who logged in gets (CSRF); web pages of
other origins are told nothing (CORS); and a Host that is not ours is refused, which keeps out pages that point a name of
theirs at loopback (DNS rebinding). Of this last one Prefect has nothing of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from containers.errors import BadInput
from containers.process import export

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK: Final = ("127.0.0.1", "localhost")


def guarded(login: str, public: str) -> dict[str, str]:
    """Settings of a Prefect server that only who has the login may use; `public` is where browsers find its UI."""
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(public)),
        "PREFECT_UI_API_URL": f"{public}/api",
        "PREFECT_UI_URL": public,
    }


def origins(public: str) -> list[str]:
    """Those of the UI itself: a page opened as localhost asks 127.0.0.1."""
    url = urlsplit(public)
    port = f":{url.port}" if url.port else ""
    names = LOOPBACK if url.hostname in LOOPBACK else (url.hostname or "",)
    return [f"{url.scheme}://{name}{port}" for name in names]


def read_login(file: Path) -> str:
    """Raises BadInput when it is not there or has no `user:password`: a server without a login must not start."""
    try:
        login = file.read_text().strip()
    except OSError as error:
        raise BadInput(f"the login of the Prefect server cannot be read: {error}") from error
    user, _, password = login.partition(":")
    if not user or not password or not login.isascii():
        raise BadInput(f"{file} holds no login", remedy="it is user:password, in ASCII")
    return login


def create_app(names: tuple[str, ...]) -> ASGIApp:
    """Prefect's server with its UI and services, by the settings of this process, for requests to these hosts."""
    from prefect.server.api.server import create_app as prefect_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Around the server and not in it: its services call it in memory, under a name of their own.
    return TrustedHostMiddleware(prefect_app(final=True), allowed_hosts=names, www_redirect=False)


def main() -> None:
    """Entry point; returns when the server has ended."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.orchestrator.prefect_server", description="A Prefect server with a login."
    )
    parser.add_argument("--login", type=Path, required=True, help="file with user:password")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--public", default="", metavar="URL", help="where browsers find it; as it listens")
    parser.add_argument("--name", action="append", default=[], help="it is also asked under this name; loopback always")
    arguments = parser.parse_args()
    try:
        login = read_login(arguments.login)
    except BadInput as error:
        parser.error(str(error))
    # Prefect reads its settings once, when it is imported.
    export(guarded(login, arguments.public or f"http://127.0.0.1:{arguments.port}"))
    import uvicorn

    given = (name.strip() for names in arguments.name for name in names.split(","))
    uvicorn.run(
        create_app((*LOOPBACK, *filter(None, given))),
        host=arguments.host,
        port=arguments.port,
        timeout_keep_alive=5,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
