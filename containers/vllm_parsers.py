"""vLLM's parsers, which take calls of tools and thinking out of a model's answers: chosen by a person, or by `vllm_parsers.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from containers.contract import Frozen
from containers.errors import Error, faults
from containers.plain_yaml import load_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

DECLARATION: Final = Path(__file__).with_name("vllm_parsers.yaml")
OFF: Final = "none"  # what a person writes for no parser
Kind = Literal["tool-call", "reasoning"]
_OPTIONS: Final[Mapping[Kind, str]] = {"tool-call": "--tool-call-parser", "reasoning": "--reasoning-parser"}


class Parsers(Frozen):
    """The names of a model's parsers, as vLLM registers them; empty for none."""

    tool_call: str = ""
    reasoning: str = ""

    def of(self, kind: Kind) -> str:
        return self.tool_call if kind == "tool-call" else self.reasoning

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is said to vLLM, which calls no tools by itself unless it is told to."""
        calls = ("--enable-auto-tool-choice", f"--tool-call-parser={self.tool_call}") if self.tool_call else ()
        return (*calls, *((f"--reasoning-parser={self.reasoning}",) if self.reasoning else ()))


class _Known(Frozen):
    architectures: tuple[str, ...] = Field(min_length=1)
    tool_call: str = ""
    reasoning: str = ""
    source: str = Field(min_length=1)


@cache
def known() -> dict[str, Parsers]:
    """The parsers of every architecture that has its own."""
    values = load_yaml(DECLARATION.read_text(encoding="utf-8"), DECLARATION.name)
    try:
        declared = TypeAdapter(tuple[_Known, ...]).validate_python(values)
    except ValidationError as error:
        raise Error(f"{DECLARATION.name}: {faults(error)}") from error
    return {
        name: Parsers(tool_call=one.tool_call, reasoning=one.reasoning)
        for one in declared
        for name in one.architectures
    }


def architecture(config: Mapping[str, Any]) -> str:
    """The first of a config.json's `architectures`, by which vLLM chooses a model's class; empty where there is none."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def choose(name: str, *, tool_call: str = "", reasoning: str = "") -> Parsers:
    """The parsers of a model of the architecture `name`: those that were given, `none` for none, and else those that are known."""
    default = known().get(name, Parsers())
    return Parsers(tool_call=_chosen(tool_call, default.tool_call), reasoning=_chosen(reasoning, default.reasoning))


def _chosen(given: str, default: str) -> str:
    return "" if given == OFF else given or default


def said(arguments: tuple[str, ...], kind: Kind) -> bool:
    """Whether a person's own arguments for vLLM name a parser already."""
    return any(one.partition("=")[0].replace("_", "-") == _OPTIONS[kind] for one in arguments)
