"""`carwright doctor`: whether this machine, and the services that the settings name, can do what is asked of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 -- typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from containers.errors import BadInput
from containers.setting_names import settings_of
from flows.cli import terminal
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.doctor import Check, Line

app = typer.Typer()

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "bold red"}


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="Model whose access is checked: hf://org/name[@revision].")] = "",
    to: Annotated[
        str,
        typer.Option(help="Target of a push that is checked: registry/repository, or oci:DIR. Nothing is left there."),
    ] = "",
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Also write a new zip file for somebody who helps remotely: this report, settings, versions, and the end of the logs "
            "of the newest runs, all without secrets.",
            metavar="FILE",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Check this machine and the services that the settings name; one line each says what to do. Exit code 2 for a problem.

    A problem is what the settings or the options ask for and does not work; anything else that does not work is a warning.
    """
    from infra.doctor import examine

    settings = Settings()
    lines = []
    for line in examine(_checks(settings, model, to), secrets=_secrets(settings)):
        lines.append(line)
        if not json_:
            _show(line)
    if bundle is not None:
        _write_bundle(bundle, settings, [asdict(line) for line in lines])
    problems = [line.name for line in lines if line.state == "problem"]
    if json_:
        print(json.dumps({"ok": not problems, "lines": [asdict(line) for line in lines]}, indent=2))
    if problems:
        raise BadInput(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: {', '.join(problems)}",
            remedy="docs/how-to/check-a-machine.md explains each line",
        )


def _checks(settings: Settings, model: str, to: str) -> dict[str, Check]:
    """The checks by the name of their line, in the order in which these are shown."""
    from flows.local.dry_run.site import Site
    from flows.orchestrator.prefect_import import import_prefect
    from infra.doctor import engine, gpu, hub, machine, registry, sandbox, store

    import_prefect()  # now: it needs the working directory for itself, and the checks run beside each other
    site = Site.read()
    ports = {
        "CARWRIGHT_PORT": site.port,
        "CARWRIGHT_REGISTRY_PORT": site.registry_port,
        "CARWRIGHT_STORE_PORT": site.store_port,
    }
    return {
        "python": machine.python,
        "disk": lambda: machine.disk(settings),
        "memory": machine.memory,
        "cores": machine.cores,
        "gpu": lambda: gpu.gpu(settings),
        "engine": lambda: engine.engine(settings),
        "engine-gpu": lambda: engine.engine_gpu(settings),
        "hub": lambda: hub.hub(settings, model),
        "registry": lambda: registry.registry(settings, to),
        "store": lambda: store.store(settings),
        "ports": lambda: machine.ports(ports),
        "sandbox": lambda: sandbox.sandbox(settings),
        "prefect": _prefect,
    }


def _write_bundle(path: Path, settings: Settings, lines: list[dict[str, Any]]) -> None:
    from infra.doctor import bundle

    contents = {
        "doctor.json": json.dumps(lines, indent=2),
        "settings.json": json.dumps(settings.model_dump(mode="json"), indent=2),
    }
    names = bundle.write(path, settings.home.resolve(), contents, _secrets(settings))
    terminal.line(
        f"{path}: {len(names)} files, without secrets as far as they are known; look through it first", error=True
    )


def _prefect() -> Line:
    """The server of PREFECT_API_URL, or of the profile of Prefect's own client: it answers and takes the login."""
    from prefect.settings import PREFECT_API_URL

    from flows.orchestrator.child_runs import check_server
    from infra.doctor.line import ok, skipped

    if not PREFECT_API_URL.value():
        return skipped("prefect", "no PREFECT_API_URL is set: `carwright ship` starts a server of its own")
    return ok("prefect", f"{check_server()} answers and takes the login")


def _secrets(settings: Settings) -> Iterator[str]:
    from huggingface_hub import get_token

    for setting in settings_of(Settings):
        if isinstance(value := setting.value(settings), SecretStr):
            yield value.get_secret_value()
    yield get_token() or ""


def _show(line: Line) -> None:
    from rich.text import Text

    terminal.out.print(Text.assemble((f"{line.state:<8}", _STYLES[line.state]), f" {line.name:<10}  {line}"))
