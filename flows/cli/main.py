"""The `carwright` command."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from containers import network
from containers.errors import BadInput, Error, Interrupted
from containers.foreign_text import masked
from containers.setting_names import settings_of
from flows.cli import (
    clean,
    deploy,
    doctor,
    dry_run,
    evaluation,
    housekeeping,
    images,
    metrics,
    modelcars,
    server,
    ship,
    steps,
    terminal,
    trust,
    watch,
)
from flows.cli.options import Json  # noqa: TC001 -- typer reads the annotation
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from typer.models import CommandInfo

app = typer.Typer(
    name="carwright",
    help="Turn this model, this revision, this recipe into a served, measured, shippable FP8 model.",
    epilog="Exit codes: 0 done, 2 bad input, 3 refused by the gate, 4 the gate could not decide, 5 not trusted by "
    "the policy, 75 temporary (try again), 130 interrupted, 128 + N signal N ended a step, 1 a bug.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        from importlib.metadata import version

        print(f"carwright {version('carwright')}")
        raise typer.Exit


@app.callback()
def _root(
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Before a command: show its result and errors, and no progress or notes."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if quiet:
        terminal.be_quiet()


for _commands in (
    steps,
    evaluation,
    modelcars,
    images,
    housekeeping,
    clean,
    doctor,
    deploy,
    watch,
    metrics,
    server,
    trust,
):
    app.add_typer(_commands.app)
app.add_typer(trust.keys, name="keys")
app.add_typer(dry_run.app, name="dry-run")
app.command()(ship.ship)

# The groups of `carwright --help`, in the order in which they are shown.
PANELS = {
    "Ship": ("ship", "approve", "runs", "ui", "report", "card", "statement"),
    "Model steps": ("download", "quantize", "serve", "eval", "compare"),
    "Images of models": ("push", "lint", "sign", "verify", "keys"),
    "Serve and deploy": ("size", "render", "deploy"),
    "Watch": ("status", "rebuilds", "watch", "metrics"),
    "Run the project": ("doctor", "settings", "clean", "pin", "unpin", "sweep", "pools", "run", "images", "dry-run"),
}


@app.command()
def runs(
    run: Annotated[
        str,
        typer.Argument(
            help="A run, or the beginning of its name: why it failed, and how to go on. Default: a list of all.",
            show_default=False,
        ),
    ] = "",
    number: Annotated[int, typer.Option("--number", "-n", help="Number of runs, newest first.")] = 10,
    json_: Json = False,
) -> None:
    """List the runs of this folder and their outcomes, or show one."""
    from flows.local import run_record

    every = run_record.records(Settings().home)
    known = [(path, one) for path, one in every if path.parent.name.startswith(run)][: None if run else number]
    records = [{"run": path.parent.name, **one} for path, one in known]
    if run and len(records) != 1:
        raise BadInput(
            f"{len(records)} runs of this folder have names that begin with {run!r}",
            remedy="`carwright runs` lists them",
        )
    if json_:
        print(json.dumps(records[0] if run else records, indent=2))
        return
    if run:
        terminal.show_table(("", ""), [(Text(name, "bold"), text) for name, text in _facts(records[0], known[0][0])])
        return
    if not records:
        terminal.out.print("no runs yet in this folder")
        return
    terminal.show_table(("run", "model", "tags", "digest", "state"), [_row(record) for record in records])


def _facts(record: dict[str, Any], path: Path) -> list[tuple[str, str]]:
    """Label and text of each line about one run. What failed or was killed continues with the same command."""
    state, shipped = record.get("state", ""), record.get("shipped") or {}
    rows = [
        ("run", record["run"]),
        ("model", record.get("model", "")),
        ("started", record.get("started", "")),
        ("state", state),
        ("what to do", record.get("remedy", "")),
        ("digest", shipped.get("digest", "")),
        ("tags", ", ".join(shipped.get("tags", []))),
        ("logs", str(path.parent.resolve())),
        ("go on with", "" if state in {"shipped", "running"} else record.get("command", "")),
    ]
    return [(name, text) for name, text in rows if text]


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    shipped = record.get("shipped") or {}
    tags, digest = ", ".join(shipped.get("tags", [])), shipped.get("digest", "")
    return (record["run"], record.get("model", ""), tags, digest, record.get("state", ""))


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 4200) -> None:
    """Show the Prefect UI with the runs of this folder, until Ctrl-C."""
    from flows.local import embedded

    settings = Settings()
    with embedded.run_lock(settings, terminal.err.print), embedded.prefect_server(settings, port) as server:
        server.wait()
        terminal.out.print(f"Prefect UI: {server.url}  (Ctrl-C ends it)")
        terminal.out.print(f"It asks once for the login in {embedded.login_file(settings)}")
        server.child.wait()


@app.command()
def settings(json_: Json = False) -> None:
    """Print the effective settings and their meaning; secrets are masked."""
    values = Settings().model_dump(mode="json")
    if json_:
        print(masked(json.dumps(values, indent=2)))
        return
    for setting in settings_of(Settings):
        value: Any = values
        for name in setting.path:
            value = value[name]
        terminal.out.print(f"{setting.variable} = {value}", style="bold")
        terminal.out.print(f"    {setting.field.description or ''}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C: everything that was started is stopped."""
    raise KeyboardInterrupt


def _arrange() -> None:
    """Put every command into its panel of the help; a test finds a command without one."""
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    order = {name: number for number, name in enumerate(panels)}
    found: list[CommandInfo] = []
    for group in app.registered_groups:
        inner = group.typer_instance
        if inner is not None and not (group.name or inner.info.name):
            found += inner.registered_commands
            inner.registered_commands = []
    app.registered_commands = sorted(
        [*app.registered_commands, *found], key=lambda one: order.get(command_name(one), len(order))
    )
    for command in app.registered_commands:
        command.rich_help_panel = panels.get(command_name(command), command.rich_help_panel)
    for group in app.registered_groups:
        group.rich_help_panel = panels.get(str(group.name or ""), "Run the project")


def command_name(command: CommandInfo) -> str:
    return command.name or (command.callback.__name__ if command.callback is not None else "")


_arrange()


def main() -> None:
    """Entry point: the only place that turns an error into an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network.arrange()
        app()
    except Error as error:
        terminal.show_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:  # what the command line library makes of Ctrl-C
        if end.code == Interrupted.exit_code:
            terminal.show_error(
                Interrupted("interrupted", remedy="nothing is left running; the same command continues from here")
            )
        raise


if __name__ == "__main__":
    main()
