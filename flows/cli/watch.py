"""What is shipped and what is newer: `carwright status`, `plan` and `watch`."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from containers.errors import BadInput, Error, Temporary
from flows.cli import terminal
from flows.orchestrator.prefect_import import import_prefect
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.watching.scan import ModelState

app = typer.Typer()

Models = Annotated[
    Path | None, typer.Option(help="File with the watched models.", show_default="infra/models.yaml, or the setting's")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command()
def status(
    models: Models = None,
    index: Annotated[
        bool, typer.Option("--index", help="Also ask pip's package index for newer versions of the tools.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show for each watched model what is shipped, its score and age, and what is newer."""
    from flows.watching import view
    from flows.watching.package_index import newer

    settings, seen = _look(models)
    indexed = newer() if index or settings.watch.index else {}
    if json_:
        print(json.dumps({"models": [view.as_json(one) for one in seen], "newer": indexed}, indent=2))
        return
    _table(view.status_rows(seen))
    for name, version in indexed.items():
        terminal.out.print(f"the package index has {name} {version}; `make lock LOCK=--upgrade` takes it")


@app.command("plan", hidden=True)  # its name until 0.2, easily taken for `quantize --plan`
@app.command()
def rebuilds(models: Models = None, json_: Json = False) -> None:
    """List which watched models would be rebuilt and why; changes nothing. Exits 2 or 75 if a model cannot be checked."""
    from flows.watching import view

    _, seen = _look(models)
    if json_:
        print(json.dumps([view.as_json(one) for one in seen], indent=2))
    else:
        _table(view.plan_rows(seen))
    _raise_for(seen)


@app.command()
def watch(
    models: Models = None,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    force: Annotated[
        list[str] | None, typer.Option(help="Name of a model whose change is announced although it was before.")
    ] = None,
    reschedule: Annotated[
        bool, typer.Option("--reschedule", help="Let the deployment look at the interval of the settings, and end.")
    ] = False,
) -> None:
    """Look at the watched models now and at every interval (CARWRIGHT_WATCH__INTERVAL), and announce what changed.

    The deployment watch-releases/hourly does the same under a worker. PREFECT_API_URL says where the server is.
    """
    settings = Settings()
    import_prefect()
    from prefect.settings import PREFECT_API_URL

    from flows import watch_releases as releases

    if not PREFECT_API_URL.value():
        raise BadInput("there is no Prefect server to tell of changes", remedy="set PREFECT_API_URL")
    if reschedule:
        releases.reschedule(settings.watch.interval)
        terminal.out.print(f"{releases.DEPLOYMENT} looks every {settings.watch.interval:g} s")
        return
    if settings.store.endpoint is None:
        raise BadInput(
            "the runs that a change starts need an object store that outlives this command",
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


def _look(models: Path | None) -> tuple[Settings, list[ModelState]]:
    """With the store of the settings, or that of this folder."""
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
        terminal.out.print("no models are watched: name some in models.yaml (CARWRIGHT_WATCH__MODELS)")
        return
    table = Table(box=None, padding=(0, 2))
    for name in rows[0]:
        table.add_column(name, overflow="fold")  # a target that is cut off is of no use
    for row in rows:
        table.add_row(*row.values())
    terminal.out.print(table)


def _raise_for(seen: Sequence[ModelState]) -> None:
    problems = [one for one in seen if one.problem]
    if not problems:
        return
    kind = Temporary if all(one.temporary for one in problems) else BadInput
    raise kind(f"{len(problems)} of {len(seen)} could not be looked at: {problems[0].problem}")
