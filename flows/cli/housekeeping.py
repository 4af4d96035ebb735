"""`carwright sweep`, and which services `carwright clean` stops."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from containers.errors import BadInput
from flows.cli import terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from flows.orchestrator.prefect_import import import_prefect
from flows.runners.backends import BACKENDS
from infra.settings import Settings

if TYPE_CHECKING:
    from flows.runners.service import Services

app = typer.Typer()


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    json_: Json = False,
) -> None:
    """Remove containers of ended runs from the container engine at CARWRIGHT_DOCKER__HOST; active runs keep theirs."""
    from flows.runners.docker import sweeper

    found = sweeper.sweep(Settings().docker, dry_run=dry_run)
    if json_:
        print(json.dumps([asdict(one) for one in found], indent=2))
        sweeper.check_removed(found)
        return
    if not found:
        terminal.out.print("no container of Carwright on this container engine")
        return
    gone = "would go" if dry_run else "removed"
    rows = [(one.name, one.step, one.run, gone if one.removed else "stays", one.why) for one in found]
    terminal.show_table(("container", "step", "run", "", "why"), rows)
    sweeper.check_removed(found)


def services(settings: Settings) -> list[Services]:
    """All services that may still be serving for this folder, for every launcher and wherever they were placed."""
    found = {
        name: backend.services(settings)
        for name, backend in BACKENDS.items()
        if name == settings.launcher or backend.may_serve(settings)
    }
    if settings.placement.serve and settings.store.endpoint is not None:  # no other machine reaches the embedded store
        import_prefect()
        from flows.runners.remote.services import PlacedServices

        found[settings.launcher] = PlacedServices(settings, found[settings.launcher])
    return list(found.values())


def age(text: str, least: timedelta = timedelta()) -> timedelta:
    """`36h` or `14d`; at least `least`."""
    match = re.fullmatch(r"([0-9]+)([hd])", text)
    if match is None:
        raise BadInput(f"{text!r} is not an age", remedy="write hours or days: 36h, 14d")
    count = int(match[1])
    found = timedelta(hours=count) if match[2] == "h" else timedelta(days=count)
    if found < least:
        raise BadInput(
            f"an age of {text} is too short: what runs are making now is protected by its age",
            remedy=f"give at least {least / timedelta(hours=1):.0f}h",
        )
    return found
