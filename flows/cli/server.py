"""The commands for a shared Prefect server: `carwright pools` and `carwright run`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from containers.errors import BadInput
from containers.setting_names import names_of_variables
from flows.cli import terminal
from flows.cli.options import Json, Verbose  # noqa: TC001 -- typer reads the annotation
from flows.orchestrator.prefect_import import import_prefect
from infra.settings import IMAGES, Settings

app = typer.Typer()

LOCAL = "quantize-and-ship/local"


@app.command()
def pools(  # noqa: PLR0917 - typer makes options of them
    project: Annotated[
        str, typer.Option(help="Prefix of the hosts' network, the secrets' volume and the containers of runs.")
    ] = "carwright",
    images: Annotated[str, typer.Option(help="Registry and repository of the images.")] = IMAGES,
    tag: Annotated[str, typer.Option(help="Tag of the images.")] = "latest",
    socket: Annotated[str, typer.Option(help="Socket of the container engine on the hosts.")] = "/var/run/docker.sock",
    socket_group: Annotated[
        int | None, typer.Option(help="Id of the group that may use the socket: stat -c %g SOCKET.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", help="Environment variable of every run, NAME=VALUE: addresses of store, hub, registry."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this pool.")] = None,
    json_: Json = False,
) -> None:
    """Create or update the work pools, queues and limits that the deployments need, on the server of PREFECT_API_URL."""
    import_prefect()
    from flows.orchestrator.child_runs import check_server
    from flows.orchestrator.work_pools import CPU, GPU, POOLS, Host, prepare

    if unknown := sorted(set(only or ()) - {CPU, GPU}):
        raise BadInput(f"there is no pool {', '.join(unknown)}", remedy=f"the pools are {CPU} and {GPU}")
    variables = _pairs(environment or [])
    Settings.check_names(names_of_variables(variables))  # otherwise every run would refuse them
    check_server()
    host = Host(project, images, tag, socket, socket_group, variables)
    wanted = tuple(only) if only else (CPU, GPU)
    prepare(host, terminal.err.print if json_ else terminal.out.print, wanted)
    if json_:
        made = [pool for pool in POOLS if pool.name in wanted]
        terminal.document(
            {"pools": [{"name": one.name, "queues": [queue.name for queue in one.queues]} for one in made]}
        )


@app.command()
def run(
    deployment: Annotated[str, typer.Argument(help="flow/deployment.")] = LOCAL,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", help="Parameter, NAME=VALUE; VALUE is parsed as JSON if possible, else used as text."
        ),
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Start a run of a deployment of the chain and follow it to its end; Ctrl-C cancels it."""
    start(deployment, parameters(parameter or []), as_json=json_, verbose=verbose)


@app.command()
def approve(
    run: Annotated[str, typer.Argument(help="Id of the run; without one, list the runs that wait.")] = "",
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse the release.")] = False,
    json_: Json = False,
) -> None:
    """Answer a run that waits for approval (`ship --approval`), on the server of PREFECT_API_URL."""
    import_prefect()
    from flows.orchestrator import approval
    from flows.orchestrator.child_runs import check_server

    check_server()
    if not run:
        found = approval.waiting()
        if json_:
            terminal.document({"waiting": [{"run": id_, "name": name} for id_, name in found]})
        elif found:
            terminal.show_table(("run", "name"), found)
        else:
            terminal.out.print("no run waits for approval")
        return
    approval.answer(run, approve=not refuse, reason=reason)
    if json_:
        terminal.document({"run": run, "approved": not refuse, "reason": reason})
    else:
        terminal.out.print(f"{'refused' if refuse else 'approved'} {run}")


def parameters(texts: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE texts; a value is parsed as JSON if possible, else used as text."""
    return {name: _value(text) for name, text in _pairs(texts).items()}


def start(deployment: str, asked: dict[str, Any], *, as_json: bool = False, verbose: bool = False) -> None:
    """Start a run, follow it and show its outcome; raises what `flows.orchestrator.follow` raises."""
    import_prefect()
    from flows.orchestrator import follow
    from flows.release.summary import NotPromoted

    with terminal.display(verbose=verbose) as show:
        try:
            shipped, stopped = follow.start(deployment, asked, show).wait(), None
        except NotPromoted as error:
            shipped, stopped = error.shipped, error
    if as_json:
        terminal.write(shipped.model_dump_json(indent=2))
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
