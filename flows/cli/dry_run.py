"""`carwright dry-run`: the whole chain on this machine's Docker engine; `make dry-run` uses it."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from containers.errors import Interrupted
from flows.cli import server, terminal
from flows.local.dry_run.site import Database, Site
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGIN: Final = ".venv/bin/carwright dry-run login"

app = typer.Typer(
    help="Run the whole chain on this machine's Docker engine, under a Prefect server (make dry-run, make dry-run-down).",
    no_args_is_help=True,
)


@app.command()
def up(
    no_run: Annotated[bool, typer.Option("--no-run", help="Start no run.")] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Parameter of the run, NAME=VALUE; VALUE is parsed as JSON if possible."),
    ] = None,
    database: Annotated[
        Database | None,
        typer.Option(
            help="Where the Prefect server keeps its data; postgres for more than one user.",
            show_default="CARWRIGHT_DATABASE, else sqlite",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="The summary of the run as JSON on standard output.")] = False,
) -> None:
    """Start all services, register the deployments, ship the demo model and follow the run.

    Safe to repeat: running services and stored data are kept, and an unchanged model is found in the store. With keys in the
    settings (sign.key_file and sign.password, sign.folder) promotion signs with them.
    """
    from containers.trust.signers import key_files
    from flows.local.dry_run import lifecycle

    keys = key_files(Settings().sign)
    site = Site.read()
    if database is not None:
        site = site.model_copy(update={"database": database})
    with _interruptible():
        lifecycle.up(site, _log, keys)
        if not no_run:
            server.start(server.LOCAL, server.parameters(parameter or []), as_json=json_)
    _log(f"Prefect UI: {site.url}   registry: 127.0.0.1:{site.registry_port}")
    _log(f'The UI asks for the login that `{_LOGIN}` prints. For this shell: eval "$({_LOGIN})"')
    _log("another run: .venv/bin/prefect deployment run quantize-and-ship/local")


@app.command()
def login() -> None:
    """Print the variables that a shell needs to use the API: eval "$(carwright dry-run login)".

    They contain the login, which is secret. It goes to standard output only.
    """
    from flows.local.dry_run import lifecycle

    for name, value in lifecycle.api(Site.read()).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def down(
    volumes: Annotated[bool, typer.Option("--volumes", help="Also remove the stored data.")] = False,
) -> None:
    """Remove all containers, including flow runs and steps. Stored data stays in its volumes."""
    from flows.local.dry_run import lifecycle

    with _interruptible():
        lifecycle.down(Site.read(), _log, volumes=volumes)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", remedy="`make dry-run-down` removes the services") from None


def _log(text: str) -> None:
    terminal.err.print(f"{'dry run':>9}  {text}")
