"""`carwright sweep`, and which services `carwright clean` stops."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli import terminal
from flows.orchestrator.prefect_import import import_prefect
from flows.runners.process.services import ProcessServices
from infra.settings import Settings

if TYPE_CHECKING:
    from flows.runners.service import Services

app = typer.Typer()


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and let it stay.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Remove containers of runs that have ended, from the engine of CARWRIGHT_DOCKER__HOST; what a run waits for stays."""
    from flows.runners.docker import sweeper

    found = sweeper.sweep(Settings().docker, dry_run=dry_run)
    if json_:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    table = Table("container", "step", "run", "", "why", box=None, padding=(0, 2))
    gone = "would go" if dry_run else "removed"
    for one in found:
        table.add_row(one.name, one.step, one.run, gone if one.removed else "stays", one.why)
    terminal.out.print(table if found else "no container of Carwright on this engine")


def services(settings: Settings) -> list[Services]:
    """All that may have left something serving for this folder, however and wherever its steps were started."""
    found: list[Services] = [ProcessServices(settings)]
    if settings.launcher == "docker" or (settings.home / "services" / "docker").exists():  # by a run with that profile
        from flows.runners.docker.services import DockerServices

        found.append(DockerServices(settings))
    if settings.launcher == "kubernetes":
        from flows.runners.kubernetes.services import KubernetesServices

        found.append(KubernetesServices(settings))
    if settings.placement.serve and settings.store.endpoint is not None:  # no other machine reaches the embedded store
        import_prefect()
        from flows.runners.remote.services import PlacedServices

        found[-1] = PlacedServices(settings, found[-1])
    return found
