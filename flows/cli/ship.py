"""`carwright ship`: the whole chain, on this machine or as a run of a deployment."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from flows.cli import server, terminal
from flows.ship_request import ShipRequest, command_line, parameters, with_signature
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show the libraries' output.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Profile = Annotated[
    str,
    typer.Option(
        help="Where to run. embedded: on this machine, with a store and a Prefect server of its own; docker: the same, "
        "with each step in a container of its image, and --to a registry. Else the name of a deployment (local, gpu), on "
        "the server of PREFECT_API_URL."
    ),
]


def options(model: type[BaseModel]) -> list[inspect.Parameter]:
    """The model's fields as parameters that typer turns into options."""
    return [
        one.replace(
            annotation=Annotated[_typed(one.annotation), _option(model, one.name)],
            default="" if one.default is inspect.Parameter.empty else one.default,
        )
        for one in parameters(model)
        if not command_line(model.model_fields[one.name]).hidden
    ]


def _typed(annotation: Any) -> Any:
    """The type as typer takes it: it repeats options of lists, and a tuple is to it one option with several values."""
    return list[str] if get_origin(annotation) is tuple else annotation


def _option(model: type[BaseModel], name: str) -> Any:
    field, shown = model.model_fields[name], command_line(model.model_fields[name])
    if shown.argument:
        text = f"{field.description} Default: {shown.default}."
        return typer.Argument(help=text, show_default=False, metavar=shown.metavar)
    option = f"--{name.replace('_', '-')}"  # said, so that a flag has no --no-... beside it
    return typer.Option(option, help=field.description, show_default=shown.default or True, metavar=shown.metavar)


def takes_options_of(model: type[ShipRequest]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of one request into a command: the request's fields become options besides its own."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        taken = options(model)
        own = [one for name, one in inspect.signature(function, eval_str=True).parameters.items() if name != "request"]

        def command(**values: Any) -> None:
            given = {one.name: values.pop(one.name) for one in taken}
            function(model.read(given), **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return with_signature(command, [*taken, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)])

    return decorate


@takes_options_of(ShipRequest)
def ship(request: ShipRequest, profile: Profile = "embedded", json_: Json = False, verbose: Verbose = False) -> None:
    """Run the whole chain: download, quantize, push, deploy, evaluate, promote.

    Nothing is done twice: an unchanged input costs nothing, and a killed run continues where it stopped.
    """
    from flows.local import ship as local
    from flows.release.summary import NotPromoted

    settings = Settings()
    if profile not in {"embedded", "docker"}:
        server.start(f"quantize-and-ship/{profile}", request.overrides(), as_json=json_, verbose=verbose)
        return
    if profile == "docker":
        settings = settings.model_copy(update={"launcher": "docker"})
    with terminal.display(verbose=verbose) as show:
        try:
            shipped, stopped = local.ship(request, settings, show), None
        except NotPromoted as error:
            shipped, stopped = error.shipped, error
    if json_:
        print(shipped.model_dump_json(indent=2))
    else:
        terminal.show_shipped(shipped)
    if stopped is not None:
        raise stopped
