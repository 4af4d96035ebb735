"""The commands for a Prefect server that others share: `carwright pools` and `carwright run`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from containers.errors import BadInput
from containers.setting_names import names_of_variables
from flows.cli import terminal
from flows.orchestrator.prefect_import import import_prefect
from infra.settings import Settings

app = typer.Typer()

LOCAL = "quantize-and-ship/local"


@app.command()
def pools(  # noqa: PLR0917 - typer makes options of them
    project: Annotated[
        str, typer.Option(help="Names the hosts' network, the volume with the secrets, and the containers of runs.")
    ] = "carwright",
    images: Annotated[str, typer.Option(help="Where the images come from: registry/repository.")] = "carwright",
    tag: Annotated[str, typer.Option(help="And which of them.")] = "latest",
    socket: Annotated[str, typer.Option(help="The engine's socket on the hosts.")] = "/var/run/docker.sock",
    socket_group: Annotated[
        int | None, typer.Option(help="Id of the group that may use the socket there: stat -c %g SOCKET.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--env", help="NAME=VALUE for every run: addresses of store, hub, registry.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this pool; the hosts of pools may differ.")] = None,
) -> None:
    """Make or update the work pools, queues and limits that the deployments need, on the server of PREFECT_API_URL."""
    import_prefect()
    from flows.orchestrator import follow
    from flows.orchestrator.work_pools import CPU, GPU, Host, prepare

    if unknown := sorted(set(only or ()) - {CPU, GPU}):
        raise BadInput(f"there is no pool {', '.join(unknown)}", remedy=f"the pools are {CPU} and {GPU}")
    variables = _pairs(environment or [])
    Settings.check_names(names_of_variables(variables))  # else every run would refuse them
    follow.check_server()
    host = Host(project, images, tag, socket, socket_group, variables)
    prepare(host, terminal.out.print, tuple(only) if only else (CPU, GPU))


@app.command()
def run(
    deployment: Annotated[str, typer.Argument(help="flow/deployment.")] = LOCAL,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="NAME=VALUE; a value is JSON where it can be read as such, else text."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries print, too.")] = False,
) -> None:
    """Start a run of a deployment of the chain and follow it to its end; Ctrl-C cancels it."""
    start(deployment, parameters(parameter or []), as_json=json_, verbose=verbose)


def parameters(texts: list[str]) -> dict[str, Any]:
    """Of NAME=VALUE texts; a value is JSON where it can be read as such, else text."""
    return {name: _value(text) for name, text in _pairs(texts).items()}


def start(deployment: str, asked: dict[str, Any], *, as_json: bool = False, verbose: bool = False) -> None:
    """Start, follow, and show what came of it; raises what `flows.orchestrator.follow` raises."""
    import_prefect()
    from flows.orchestrator import follow
    from flows.release.summary import NotPromoted

    with terminal.display(verbose=verbose) as show:
        try:
            shipped, stopped = follow.start(deployment, asked, show).wait(), None
        except NotPromoted as error:
            shipped, stopped = error.shipped, error
    if as_json:
        print(shipped.model_dump_json(indent=2))
    else:
        terminal.show_shipped(shipped)
    if stopped is not None:
        raise stopped


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadInput(f"{text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
