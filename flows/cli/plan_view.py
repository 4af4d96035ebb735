"""Displays the plan of a quantization (`values["plan"]` of the quantize step with the action `plan`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table

from containers.events import amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

_SHOWN: Final = 12  # groups; the rest is in the JSON


def plan_view(plan: Mapping[str, Any]) -> RenderableType:
    """Tables of the tensors and shards, the resources needed, and the warnings."""
    return Group(_tensors(plan), _groups(plan), _needs(plan), *(f"warning: {text}" for text in plan["warnings"]))


def _tensors(plan: Mapping[str, Any]) -> Table:
    table = Table(title=f"{plan['architecture']} to {plan['scheme']}", title_justify="left")
    for heading in ("tensors", "", "size", "such as"):
        table.add_column(heading, justify="right" if heading in {"tensors", "size"} else "left")
    billions = f"{plan['parameters'] / 1e9:,.2f} G parameters"
    table.add_row(f"{plan['linear_layers']}", "quantized", billions, "")
    for kept in plan["kept"]:
        why = kept["reason"]
        if plan["tied_head"] and "embed" in "".join(kept["examples"]):
            why += " (the head is tied to the embedding)"
        table.add_row(f"{kept['tensors']}", f"kept: {why}", amount(kept["size"], "B"), kept["examples"][0])
    return table


def _groups(plan: Mapping[str, Any]) -> Table:
    groups = plan["groups"]
    table = Table(
        "shard", "quantized", "kept", "before", "after", "", title=f"{len(groups)} groups", title_justify="left"
    )
    for group in groups[:_SHOWN]:
        sizes = (amount(group["size_before"], "B"), amount(group["size_after"], "B"))
        done = "done already" if group["stored"] else ""
        table.add_row(group["path"], f"{group['quantized']}", f"{group['kept']}", *sizes, done)
    if len(groups) > _SHOWN:
        table.add_row(f"and {len(groups) - _SHOWN} more", "", "", "", "", "")
    return table


def _needs(plan: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    rows = {
        "checkpoint": f"{amount(plan['size_before'], 'B')} before, {amount(plan['size_after'], 'B')} after",
        "image": f"{plan['layers']} layers, the largest of {amount(plan['largest_layer'], 'B')}",
        f"a worker with {plan['lanes']} groups in hand": f"{amount(plan['disk_needed'], 'B')} of disk, "
        f"{amount(plan['memory_needed'], 'B')} of memory, on a GPU {amount(plan['gpu_memory_needed'], 'B')} of its memory",
        "not quantized": ", ".join(plan["ignore"]),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table
