"""Options that several commands have: those made from a model's fields, and a few by themselves."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_origin

import typer

from containers.errors import BadInput
from flows.ship_request import Parameters, command_line, parameters, with_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic import BaseModel

    from infra.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show the libraries' output.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(
        help="What quantizes and serves on this machine without containers: cpu, or cuda, its NVIDIA GPUs; auto: those, if "
        "there are any that can be used.",
        show_default="the setting device",
    ),
]
M = TypeVar("M", bound=Parameters)


def on_device(settings: Settings, device: str | None) -> Settings:
    """The settings with the device of an option, if it was given. Raises BadInput where the option could do nothing."""
    if device is None:
        return settings
    if settings.launcher != "process":
        raise BadInput(
            f"--device is for steps without containers, and the launcher is {settings.launcher}",
            remedy="CARWRIGHT_RESOURCES__SERVE__GPUS and CARWRIGHT_RESOURCES__QUANTIZE__GPUS give containers GPUs",
        )
    return settings.model_copy(update={"device": device})


def options(model: type[BaseModel], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """The model's fields as parameters that typer turns into options."""
    return [
        one.replace(
            annotation=Annotated[_typed(one.annotation), _option(model, one.name)],
            default="" if one.default is inspect.Parameter.empty else one.default,
        )
        for one in parameters(model)
        if not command_line(model.model_fields[one.name]).hidden and one.name not in without
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


def takes_options_of(
    model: type[M], parameter: str = "request", without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a command: in the place of its `parameter`, an instance of the model, options are taken for the
    model's fields, save those of `without`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        taken = options(model, without)
        own = inspect.signature(function, eval_str=True).parameters.items()
        shown = [one for name, each in own for one in (taken if name == parameter else [each])]

        def command(**values: Any) -> None:
            given = {one.name: values.pop(one.name) for one in taken}
            function(**{parameter: model.read(given)}, **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return with_signature(command, [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown])

    return decorate
