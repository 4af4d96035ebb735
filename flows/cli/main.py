"""The `carwright` command."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table

from containers.errors import Error, Interrupted
from containers.setting_names import settings_of
from flows.cli import deploy, evaluation, housekeeping, images, modelcars, server, steps, terminal, watch
from infra.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    name="carwright",
    help="This model, this revision, this recipe: a served, measured, shippable FP8 model.",
    epilog="Exit codes: 0 done, 2 bad input, 3 refused by the gate, 4 the gate could not decide, 75 temporary (try again), "
    "130 interrupted, 1 a bug.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.add_typer(steps.app)
app.add_typer(evaluation.app)
app.add_typer(modelcars.app)
app.add_typer(images.app)
app.add_typer(housekeeping.app)
app.add_typer(deploy.app)
app.add_typer(watch.app)
app.add_typer(server.app)

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries print, too.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub; resolved to a commit first.")]
Scheme = Annotated[str, typer.Option(help="How weights and activations are quantized.")]
Profile = Annotated[
    str,
    typer.Option(
        help="Where it runs. embedded: on this machine, with a store and a Prefect server of its own; docker: the same, "
        "with each step in a container of its image, and --to a registry. Else the name of a deployment (local, gpu), on "
        "the server of PREFECT_API_URL."
    ),
]


@app.command()
def ship(  # noqa: PLR0917 - typer makes options of them
    model: Annotated[
        str | None,
        typer.Argument(
            help="hf://org/name, file:///dir or s3://bucket/prefix. Without it: the demo model.", show_default=False
        ),
    ] = None,
    revision: Revision = None,
    to: Annotated[
        str, typer.Option(help="oci:DIR or registry/repository.", show_default="oci:.carwright/images/<model>-<scheme>")
    ] = "",
    scheme: Scheme = "FP8_DYNAMIC",
    suite: Annotated[str, typer.Option(help="The suite that the gate judges by.")] = "smoke",
    tag: Annotated[str, typer.Option(help="Tag of the promoted image.", show_default="the commit")] = "",
    base: Annotated[str, typer.Option(help="Base layer: busybox, none, or an image reference.")] = "busybox",
    max_model_len: Annotated[int, typer.Option(help="Tokens of context that the model is served with.")] = 2048,
    profile: Profile = "embedded",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the model serving; carwright clean stops it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do every step again, whatever the caches hold.")] = False,
    override_gate: Annotated[
        str,
        typer.Option("--override-gate", metavar="REASON", help="Promote in spite of the gate; the reason is recorded."),
    ] = "",
    gate_profile: Annotated[
        Literal["smoke", "release"],
        typer.Option(help="What an undecided gate does. release: stop, exit code 4. smoke: warn and promote."),
    ] = "release",
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the whole chain: download, quantize, push, deploy, evaluate, promote.

    Nothing is done twice: an unchanged input costs nothing, and a run that was killed goes on where it stopped.
    """
    from flows.local.ship import ShipRequest, ship
    from flows.release.summary import NotPromoted

    wish = ShipRequest(
        model,
        revision,
        to,
        scheme,
        suite,
        base,
        tag,
        max_model_len,
        override_gate,
        gate_profile,
        keep=keep,
        force=force,
    )
    settings = Settings()
    if profile not in {"embedded", "docker"}:
        server.start(f"quantize-and-ship/{profile}", wish.asked(), as_json=json_, verbose=verbose)
        return
    if profile == "docker":
        settings = settings.model_copy(update={"launcher": "docker"})
    with terminal.display(verbose=verbose) as show:
        try:
            shipped, stopped = ship(wish, settings, show), None
        except NotPromoted as error:
            shipped, stopped = error.shipped, error
    if json_:
        print(shipped.model_dump_json(indent=2))
    else:
        terminal.show_shipped(shipped)
    if stopped is not None:
        raise stopped


@app.command()
def runs(
    number: Annotated[int, typer.Option("--number", "-n", help="How many, newest first.")] = 10, json_: Json = False
) -> None:
    """List the runs of this folder and what came of them."""
    paths = sorted((Settings().home / "runs").glob("*/summary.json"), reverse=True)[:number]
    records = [{"run": path.parent.name, **json.loads(path.read_text())} for path in paths]
    if json_:
        print(json.dumps(records, indent=2))
        return
    table = Table("run", "model", "state", "digest", "tags", box=None, padding=(0, 2))
    for record in records:
        shipped: dict[str, Any] = record.get("shipped") or {}
        table.add_row(
            record["run"],
            record.get("model", ""),
            record.get("state", ""),
            shipped.get("digest", "")[7:19],
            ", ".join(shipped.get("tags", [])),
        )
    terminal.out.print(table if records else "no runs yet in this folder")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 4200) -> None:
    """Show the Prefect UI with the runs of this folder, until Ctrl-C."""
    from flows.local import embedded

    settings = Settings()
    with embedded.exclusive(settings, terminal.err.print), embedded.prefect_server(settings, port) as server:
        server.wait()
        terminal.out.print(f"Prefect UI: {server.url}  (Ctrl-C ends it)")
        terminal.out.print(f"It asks for a login, once: the line in {embedded.login_file(settings)}", soft_wrap=True)
        server.child.wait()


@app.command()
def settings(json_: Json = False) -> None:
    """Print the settings in force, where each can be set, and what it means; secrets are masked."""
    values = Settings().model_dump(mode="json")
    if json_:
        print(json.dumps(values, indent=2))
        return
    columns = (Column("setting", no_wrap=True), Column("value", overflow="fold"), "meaning")
    table = Table(*columns, box=None, padding=(0, 2))
    for setting in settings_of(Settings):
        value: Any = values
        for name in setting.path:
            value = value[name]
        table.add_row(setting.variable, str(value), setting.field.description or "")
    terminal.out.print(table)


@app.command()
def clean(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also remove the store, the images, the runs and their database: all of .carwright."
        ),
    ] = False,
    registry: Annotated[
        str, typer.Option(help="Instead: list the candidates in registry/repository that never passed the gate.")
    ] = "",
    older: Annotated[str, typer.Option(help="With --registry: pushed longer ago than this; 36h, 14d.")] = "14d",
    delete: Annotated[bool, typer.Option("--delete", help="With --registry: remove what is listed.")] = False,
    json_: Json = False,
) -> None:
    """Stop what was left serving, and remove what no run needs any more."""
    if registry:
        modelcars.show_candidates(registry, older, delete=delete, as_json=json_)
        return
    from flows.local import embedded

    settings = Settings()
    with embedded.exclusive(settings, terminal.err.print):
        for services in housekeeping.services(settings):
            for url in services.stop_all(kept=True):
                terminal.out.print(f"stopped {url}")
        gone = [settings.home] if everything else [settings.home / "serving", settings.home / "partial"]
        for folder in gone:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
                terminal.out.print(f"removed {folder}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C: everything that was started is stopped."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: the only place that turns an error into an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except Error as error:
        terminal.show_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:  # what the command line library makes of Ctrl-C
        if end.code == Interrupted.exit_code:
            terminal.show_error(
                Interrupted("interrupted", remedy="nothing is left running; the same command goes on from here")
            )
        raise


if __name__ == "__main__":
    main()
