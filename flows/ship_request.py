"""The parameters of one shipment, and function signatures made from them.

Everything with these parameters is made from this model: the options of `carwright ship`, the parameters of the flow, the
entries of models.yaml, the event of watch-releases and the stored record. A new parameter is one field here, in
`ShipOptions` if an entry of models.yaml may set it.
"""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from containers import suites
from containers.contract import Frozen, GateProfile
from containers.errors import BadInput, Error, faults
from containers.oci.reference import Reference, absolute_layout
from containers.parameters import BASES, DEFAULT_BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

R = TypeVar("R")
M = TypeVar("M", bound="BaseModel")


@dataclass(frozen=True)
class CommandLine:
    """How `carwright ship` shows a field.

    `default` describes the meaning of an empty value; `argument`: a positional argument; `hidden`: not an option,
    because only programs set it.
    """

    metavar: str | None = None
    default: str | None = None
    argument: bool = False
    hidden: bool = False


def _base(text: str) -> str:
    if text not in BASES:
        try:
            Reference.parse(text)
        except Error as error:
            raise ValueError(str(error)) from error
    return text


# What Carwright itself says to vLLM: an argument of the user's may not say it again.
_OWN_ARGUMENTS: Final = (
    *("--model", "--served-model-name", "--host", "--port", "--uds", "--api-key", "--config", "--max-model-len"),
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--gpu-memory-utilization", "--max-logprobs"),
)


def _argument(text: str) -> str:
    name = text.partition("=")[0].replace("_", "-")
    if not text.startswith("--") or any(mark in text for mark in "\n\r\0"):
        raise ValueError(f"{text!r} is not an argument of vLLM: write --NAME or --NAME=VALUE")
    if name in _OWN_ARGUMENTS:
        raise ValueError(f"Carwright gives {name} itself; its own option has the same name, if there is one")
    return text


def _parser(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", text):
        raise ValueError(f"{text!r} is not the name of a parser: write one that vLLM knows, or none")
    return text


class Parameters(Frozen):
    """A model that reads what people wrote."""

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """An instance of these values; raises BadInput, naming the parameter, for an invalid value or an unknown name."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadInput(f"invalid parameters: {faults(error)}") from error


class ServingOptions(Parameters):
    """How models are served to be measured. 0 leaves it to the plan (`flows.serving.plan`)."""

    max_model_len: Annotated[int, CommandLine(default="what the suite needs")] = Field(
        default=0, ge=0, description="Context length in tokens; raised if the suite needs more."
    )
    tensor_parallel_size: Annotated[int, CommandLine(default="the fewest GPUs that hold it")] = Field(
        default=0, ge=0, description="GPUs that share each layer."
    )
    pipeline_parallel_size: Annotated[int, CommandLine(default="1")] = Field(
        default=0, ge=0, description="Groups of GPUs that share the layers."
    )
    gpu_memory_utilization: Annotated[float, CommandLine(default="0.9, or what just fits")] = Field(
        default=0.0, ge=0, le=1, description="Part of a GPU's memory that vLLM takes."
    )
    vllm_argument: tuple[Annotated[str, AfterValidator(_argument)], ...] = Field(
        default=(),
        description="Argument for vLLM, as --NAME or --NAME=VALUE; repeatable, and part of a measurement's name.",
    )
    tool_call_parser: Annotated[
        str, AfterValidator(_parser), CommandLine(metavar="NAME", default="by architecture")
    ] = Field(
        default="",
        description="vLLM's parser of tool calls; `none` leaves it out. A measurement has one only if the suite needs it.",
    )
    reasoning_parser: Annotated[
        str, AfterValidator(_parser), CommandLine(metavar="NAME", default="by architecture")
    ] = Field(default="", description="vLLM's parser of reasoning, likewise.")
    concurrency: Annotated[int, CommandLine(default="the setting evaluate.concurrency")] = Field(
        default=0, ge=0, description="Concurrent requests to the measured model."
    )


class ShipOptions(ServingOptions):
    """The parameters that an entry of models.yaml may set, too, under the same names."""

    suite: str = Field(default="smoke", description="Suite for the gate.")
    base: Annotated[str, AfterValidator(_base)] = Field(
        default=DEFAULT_BASE, description="Base layer: minimal, busybox, none, or an image reference."
    )
    tag: Annotated[str, CommandLine(default="the commit")] = Field(default="", description="Tag of the promoted image.")
    ignore: tuple[str, ...] = Field(
        default=(),
        description="Module to keep unquantized, besides those of the architecture's recipe: a name, or re:EXPRESSION; repeatable.",
    )
    ignore_only: tuple[str, ...] = Field(
        default=(), description="Module to keep unquantized, instead of the architecture's recipe; repeatable."
    )
    override_gate: Annotated[str, CommandLine(metavar="REASON")] = Field(
        default="", description="Promote against the gate's verdict; the reason is recorded."
    )
    approval: bool = Field(
        default=False, description="Before promotion, wait for a person to approve it; the reason is recorded."
    )


class ShipRequest(ShipOptions):
    """One shipment. An empty `model` stands for the demo, an empty `to` for a default target."""

    model: Annotated[str, CommandLine(argument=True, default="the demo model")] = Field(
        description="hf://org/name, file:///dir or s3://bucket/prefix."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit on the hub; resolved to a commit first."
    )
    to: Annotated[str, CommandLine(default="oci:.carwright/images/<model>-<scheme>")] = Field(
        default="", description="oci:DIR or registry/repository."
    )
    scheme: str = Field(default="FP8_DYNAMIC", description="Quantization scheme of weights and activations.")
    baseline_endpoint: Annotated[str, CommandLine(metavar="URL", default="serve it here")] = Field(
        default="",
        description="Running vLLM with the baseline (http://HOST:PORT/v1, #NAME if it serves several models).",
    )
    candidate_endpoint: Annotated[str, CommandLine(metavar="URL", default="serve it here")] = Field(
        default="", description="Running vLLM with the quantized model, likewise."
    )
    gate_profile: GateProfile = Field(
        default="release",
        description="If the gate cannot decide: release stops with exit code 4, smoke warns and promotes.",
    )
    keep: bool = Field(default=False, description="Keep the model serving; carwright clean stops it.")
    force: bool = Field(default=False, description="Run every step again and ignore caches.")
    reason: Annotated[str, CommandLine(hidden=True)] = Field(default="", description="Why the run was started.")
    change: Annotated[str, CommandLine(hidden=True)] = Field(
        default="", description="Fingerprint of the change that watch-releases announced."
    )

    def absolute(self) -> Self:
        """The same with absolute folders, for steps, which have another working directory."""
        suite = self.suite if self.suite in suites.names() else str(Path(self.suite).absolute())
        base = absolute_layout(self.base) if self.base.startswith("oci:") else self.base
        return self.model_copy(update={"to": absolute_layout(self.to) if self.to else "", "suite": suite, "base": base})

    def dump(self) -> dict[str, Any]:
        """All parameters as JSON values."""
        return self.model_dump(mode="json")

    def overrides(self) -> dict[str, Any]:
        """The parameters that differ from the defaults; for a deployment, which has its own defaults and model."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return {name: value for name, value in given.items() if name != "model" or value}

    def command(self) -> str:
        """The command line that asks for this shipment, quoted for a shell."""
        words = ["carwright", "ship"]
        for name, field in fields(type(self)).items():
            value, shown = getattr(self, name), command_line(field)
            if shown.hidden or value == ("" if shown.argument else field.default):
                continue
            option = f"--{name.replace('_', '-')}"
            if shown.argument:
                words.append(value)
            elif value is True:
                words.append(option)
            else:
                words += [f"{option}={one}" for one in (value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)

    @property
    def name(self) -> str:
        """The name of the model without its location: the name it is served under."""
        return self.model.rstrip("/").rpartition("/")[2]


_ORDER: Final = ("model", "revision", "to", "scheme")  # the usual ones first; the others follow as declared


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields in the order in which they are shown."""
    known = model.model_fields
    first = [name for name in _ORDER if name in known]
    return {name: known[name] for name in (*first, *(name for name in known if name not in first))}


def command_line(field: FieldInfo) -> CommandLine:
    return next((one for one in field.metadata if isinstance(one, CommandLine)), CommandLine())


def parameters(model: type[BaseModel]) -> list[inspect.Parameter]:
    """The fields as parameters of a function."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in fields(model).items()
    ]


def with_signature(function: Callable[..., R], given: Iterable[inspect.Parameter]) -> Callable[..., R]:
    """Set the signature that libraries read from a function that takes keyword arguments."""
    parameters = list(given)
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function


def takes_fields_of(model: type[ShipRequest]) -> Callable[[Callable[[ShipRequest], R]], Callable[..., R]]:
    """Make a function of one request callable with the request's fields, as Prefect calls a flow.

    Prefect reads names, types and defaults from the signature and descriptions from the docstring. The function raises
    BadInput for invalid values.
    """

    def decorate(function: Callable[[ShipRequest], R]) -> Callable[..., R]:
        @wraps(function)
        def called(*args: Any, **values: Any) -> R:
            return function(model.read(inspect.signature(called).bind(*args, **values).arguments))

        del called.__wrapped__
        lines = [f"    {name}: {field.description}" for name, field in fields(model).items()]
        called.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Args:", *lines])
        return with_signature(called, parameters(model))

    return decorate
