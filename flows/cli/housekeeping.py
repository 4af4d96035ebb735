"""`carwright sweep`, and which services `carwright clean` stops."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli import terminal
from flows.runners.process.services import ProcessServices
from infra.settings import Settings

if TYPE_CHECKING:
    from flows.runners.service import Services

app = typer.Typer()


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Remove containers of ended runs from the container engine at CARWRIGHT_DOCKER__HOST; active runs keep theirs."""
    from flows.runners.docker import sweeper

    found = sweeper.sweep(Settings().docker, dry_run=dry_run)
    if json_:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    table = Table("container", "step", "run", "", "why", box=None, padding=(0, 2))
    gone = "would go" if dry_run else "removed"
    for one in found:
        table.add_row(one.name, one.step, one.run, gone if one.removed else "stays", one.why)
    terminal.out.print(table if found else "no container of Carwright on this container engine")


def services(settings: Settings) -> list[Services]:
    """All services that may still be serving for this folder, for every launcher."""
    found: list[Services] = [ProcessServices(settings)]
    if settings.launcher == "docker" or (settings.home / "services" / "docker").exists():  # by a run with that profile
        from flows.runners.docker.services import DockerServices

        found.append(DockerServices(settings))
    if settings.launcher == "kubernetes":
        from flows.runners.kubernetes.services import KubernetesServices

        found.append(KubernetesServices(settings))
    return found
