"""Displays the plan of a quantization (`values["plan"]` of the quantize step with the action `plan`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.events import amount
from flows.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHOWN: Final = 12  # groups; the rest is in the JSON


def show_plan_tables(plan: Mapping[str, Any]) -> None:
    """Tables of the tensors and shards, the resources needed, and the warnings."""
    by = "by its recipe" if plan["known"] else "by the careful default, there being no recipe for it"
    terminal.out.print(f"{plan['architecture']} to {plan['scheme']}, {by}", style="italic")
    terminal.show_table(("tensors", "", "size", "such as"), _tensors(plan), right={0, 2})
    for kept in plan["kept"]:
        if kept["why"]:
            terminal.out.print(f"{kept['reason']}: {kept['why']}")
    terminal.out.print(f"{len(plan['groups'])} groups", style="italic")
    headings = ("quantized", "kept", "before", "after", "shard", "")
    terminal.show_table(headings, _groups(plan), right={0, 1, 2, 3})
    terminal.show_table(("", ""), _needs(plan))
    for text in plan["warnings"]:
        terminal.out.print(f"warning: {text}")


def _tensors(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    billions = f"{plan['parameters'] / 1e9:,.2f} G parameters"
    yield f"{plan['linear_layers']}", "quantized", billions, ""
    for kept in plan["kept"]:
        why = kept["reason"]
        if plan["tied_head"] and why == "embeddings":
            why += " (the head is tied to the embedding)"
        yield f"{kept['tensors']}", f"kept: {why}", amount(kept["size"], "B"), kept["examples"][0]


def _groups(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    groups = plan["groups"]
    for group in groups[:_SHOWN]:
        sizes = (amount(group["size_before"], "B"), amount(group["size_after"], "B"))
        done = "done already" if group["stored"] else ""
        yield f"{group['quantized']}", f"{group['kept']}", *sizes, group["path"], done
    if len(groups) > _SHOWN:
        yield "", "", "", "", f"and {len(groups) - _SHOWN} more", ""


def _needs(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "checkpoint", f"{amount(plan['size_before'], 'B')} before, {amount(plan['size_after'], 'B')} after"
    yield "image", f"{plan['layers']} layers, the largest of {amount(plan['largest_layer'], 'B')}"
    memory = f"{amount(plan['memory_needed'], 'B')} of memory, on a GPU {amount(plan['gpu_memory_needed'], 'B')} of its"
    yield (
        f"a worker with {plan['lanes']} groups in hand",
        f"{amount(plan['disk_needed'], 'B')} of disk, {memory} memory",
    )
    yield "not quantized", ", ".join(plan["ignore"])
