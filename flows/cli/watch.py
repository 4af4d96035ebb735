"""What is shipped and what is newer: `carwright status`, `rebuilds` and `watch`."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from containers.errors import BadInput, Error, Temporary
from flows.cli import terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from flows.orchestrator.prefect_import import import_prefect
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.watching.scan import ModelState

app = typer.Typer()

Models = Annotated[
    Path | None, typer.Option(help="File with the watched models.", show_default="infra/models.yaml, or the setting's")
]


@app.command()
def status(
    models: Models = None,
    index: Annotated[
        bool, typer.Option("--index", help="Also ask pip's package index for newer versions of the tools.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show what is shipped for each watched model, its scores and age, and what is newer."""
    from flows.watching import view
    from flows.watching.package_index import newer_versions

    settings, states = _scan(models)
    newer = newer_versions() if index or settings.watch.index else {}
    if json_:
        print(json.dumps({"models": [view.as_json(one) for one in states], "newer": newer}, indent=2))
        return
    _table(view.status_rows(states))
    for name, version in newer.items():
        terminal.out.print(f"the package index has {name} {version}; `make lock LOCK=--upgrade` takes it")


@app.command("plan", hidden=True)  # its name until 0.2, easily taken for `quantize --plan`
@app.command()
def rebuilds(models: Models = None, json_: Json = False) -> None:
    """List which watched models would be rebuilt and why; changes nothing. Exits 2 or 75 if a model cannot be checked."""
    from flows.watching import view

    _, states = _scan(models)
    if json_:
        print(json.dumps([view.as_json(one) for one in states], indent=2))
    else:
        _table(view.plan_rows(states))
    _raise_for(states)


@app.command()
def watch(
    models: Models = None,
    once: Annotated[bool, typer.Option("--once", help="Scan once and exit.")] = False,
    force: Annotated[list[str] | None, typer.Option(help="Announce the change of this model again.")] = None,
    reschedule: Annotated[
        bool, typer.Option("--reschedule", help="Set the deployment's interval to that of the settings, and exit.")
    ] = False,
) -> None:
    """Scan the watched models now and at every interval (CARWRIGHT_WATCH__INTERVAL), and announce what changed.

    The deployment watch-releases/hourly does the same in a worker. PREFECT_API_URL names the Prefect server.
    """
    settings = Settings()
    import_prefect()
    from prefect.settings import PREFECT_API_URL

    from flows import watch_releases as releases

    if not PREFECT_API_URL.value():
        raise BadInput("no Prefect server is set to announce changes to", remedy="set PREFECT_API_URL")
    if reschedule:
        releases.reschedule(settings.watch.interval)
        terminal.out.print(f"{releases.DEPLOYMENT} now runs every {settings.watch.interval:g} s")
        return
    if settings.store.endpoint is None:
        raise BadInput(
            "the runs that changes start need an object store that stays up after this command",
            remedy="set CARWRIGHT_STORE__ENDPOINT and its keys; `carwright rebuilds` works without one",
        )
    while True:
        state = releases.watch_releases(str(models or ""), tuple(force or ()), return_state=True)
        failed = state.result(raise_on_failure=False)
        if isinstance(failed, Error):
            raise failed
        terminal.out.print(state.message or state.name)
        if once:
            return
        force = None
        time.sleep(settings.watch.interval)


def _scan(models: Path | None) -> tuple[Settings, list[ModelState]]:
    """The state of the watched models, with the store of the settings or the one of this folder."""
    from containers.store import Store
    from flows.local import embedded
    from flows.runtime import location
    from flows.watching.models import load
    from flows.watching.scan import scan

    with ExitStack() as stack:
        settings = stack.enter_context(embedded.store(Settings()))
        lines = load(models or settings.watch.models)
        return settings, scan(lines, settings, Store.open(location(settings), settings.store))


def _table(rows: Sequence[dict[str, str]]) -> None:
    if not rows:
        terminal.out.print("no models are watched: add some to models.yaml (CARWRIGHT_WATCH__MODELS)")
        return
    terminal.show_table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def _raise_for(states: Sequence[ModelState]) -> None:
    problems = [one for one in states if one.problem]
    if not problems:
        return
    kind = Temporary if all(one.temporary for one in problems) else BadInput
    raise kind(f"{len(problems)} of {len(states)} could not be checked: {problems[0].problem}")
