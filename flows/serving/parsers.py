"""vLLM's parsers for a model that is served here: for people, or to be measured by a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from containers import vllm_parsers
from containers.errors import BadInput
from containers.foreign_values import shown
from containers.vllm_parsers import Kind, Parsers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flows.ship_request import ServingOptions


def arguments(config: Mapping[str, Any], wanted: ServingOptions, needed: Sequence[str] | None) -> tuple[str, ...]:
    """The arguments for vLLM of the model with this config.json: its parsers, and those that a person gave, which count last.

    `needed` are the parsers that a suite needs. They alone are chosen by the architecture, because a parser changes answers and
    so the name of a measurement; None stands for a model that is served for people, who get every parser that is known.
    Raises BadInput for a needed one that is neither given nor known.
    """
    name = vllm_parsers.architecture(config)
    given = wanted.vllm_argument
    asked = {"tool-call": wanted.tool_call_parser, "reasoning": wanted.reasoning_parser}
    known = vllm_parsers.choose(name, tool_call=asked["tool-call"], reasoning=asked["reasoning"])
    chosen: dict[Kind, str] = {}
    for kind in get_args(Kind):
        told = bool(asked[kind]) or needed is None or kind in needed
        chosen[kind] = known.of(kind) if told and not vllm_parsers.said(given, kind) else ""
        if (
            needed is not None
            and kind in needed
            and not (chosen[kind] or asked[kind] or vllm_parsers.said(given, kind))
        ):
            raise BadInput(
                f"the suite needs a {kind} parser, and none is known for the architecture {shown(name) or 'of this model'}",
                remedy=f"name the one that the model's card names: --{kind}-parser NAME"
                + (
                    ", or take a suite whose `calls` are prompted (bfcl-small)"
                    if kind == "tool-call"
                    else ", or `none` for a model that does not think"
                ),
            )
    return (*Parsers(tool_call=chosen["tool-call"], reasoning=chosen["reasoning"]).arguments, *given)


def unseen(url: str, needed: Sequence[str]) -> tuple[str, ...]:
    """What cannot be known of a server that somebody else runs, of the parsers that a suite needs."""
    return tuple(
        f"{url} is to have a {kind} parser, which does not show from outside: what it leaves in an answer counts as the answer"
        for kind in needed
    )
