"""`carwright ship`: the whole chain, on this machine or as a run of a deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from containers.errors import BadInput
from flows.cli import server, terminal
from flows.cli.options import Device, Json, Verbose, on_device, takes_options_of
from flows.ship_request import ShipRequest
from infra.settings import Settings

Profile = Annotated[
    str,
    typer.Option(
        help="Where to run. embedded: on this machine, with a store and a Prefect server of its own; docker: the same, "
        "with each step in a container of its image, and --to a registry. Else the name of a deployment (local, gpu), on "
        "the server of PREFECT_API_URL."
    ),
]


@takes_options_of(ShipRequest)
def ship(
    request: ShipRequest,
    profile: Profile = "embedded",
    device: Device = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the whole chain: download, quantize, push, deploy, evaluate, promote.

    Nothing is done twice: an unchanged input costs nothing, and a killed run continues where it stopped.
    """
    from flows.local import ship as local
    from flows.release.summary import NotPromoted

    settings = Settings()
    if profile not in {"embedded", "docker"}:
        if device is not None:
            raise BadInput(
                f"--device is for this machine, and the run is one of {profile}",
                remedy="the settings of its worker say what it computes on",
            )
        server.start(f"quantize-and-ship/{profile}", request.overrides(), as_json=json_, verbose=verbose)
        return
    if profile == "docker":
        settings = settings.model_copy(update={"launcher": "docker"})
    settings = on_device(settings, device)
    with terminal.display(verbose=verbose) as show:
        try:
            shipped, stopped = local.ship(request, settings, show), None
        except NotPromoted as error:
            shipped, stopped = error.shipped, error
    if json_:
        terminal.write(shipped.model_dump_json(indent=2))
    else:
        terminal.show_shipped(shipped)
    if stopped is not None:
        raise stopped
