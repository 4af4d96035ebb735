"""Checks task names and command lines with the harness itself, without fetching data.

    python check.py tasks NAME ...        JSON by name: leaves, data_set, output_type, metrics; null for an unknown task
    python check.py commands              JSON list of what the harness's parser reads of each list of arguments in a JSON
                                          list on standard input; its own message and exit code 2 else

It runs in the harness's environment and imports nothing of Carwright.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from lm_eval import tasks as harness
from lm_eval.api import task as harness_task

if TYPE_CHECKING:
    from collections.abc import Iterator


class _DataRequested(Exception):
    """Raised where the harness would fetch a data set, after it has resolved everything else."""


def _leaves(manager: harness.TaskManager, name: str) -> Iterator[str]:
    """The tasks below a group or a tag; raises KeyError for a name that the harness does not know."""
    entry = manager.task_index[name]
    kind = entry.kind.name
    if kind == "TAG":
        members = [other for other, one in manager.task_index.items() if name in one.tags]
    elif kind == "GROUP":
        listed = (entry.cfg or {})["task"]
        members = [
            one if isinstance(one, str) else one["task"] for one in ([listed] if isinstance(listed, str) else listed)
        ]
    else:
        yield name
        return
    for member in members:
        yield from _leaves(manager, member)


def _about(manager: harness.TaskManager, name: str) -> dict[str, Any] | None:
    """Load the first leaf as far as its data; see the module's text."""
    try:
        leaves = list(dict.fromkeys(_leaves(manager, name)))
    except KeyError:
        return None
    seen: dict[str, Any] = {}

    def remember(self: Any, *_: Any, **__: Any) -> None:
        seen["config"] = self.config
        raise _DataRequested

    harness_task.ConfigurableTask.download = remember
    with contextlib.suppress(_DataRequested):
        manager.load([leaves[0]])
    config = seen["config"]
    return {
        "leaves": len(leaves),
        "data_set": config.dataset_path,
        "output_type": config.output_type,
        "metrics": sorted({one["metric"] for one in config.metric_list or ()}),
        "filters": sorted({one["name"] for one in config.filter_list or ()}) or ["none"],
    }


def _tasks(names: list[str]) -> None:
    manager = harness.TaskManager()
    json.dump({name: _about(manager, name) for name in names}, sys.stdout)


def _commands(lines: list[list[str]]) -> None:
    from lm_eval._cli.harness import HarnessCLI

    parser = HarnessCLI()._parser  # noqa: SLF001 - the harness has no public way to parse without running
    read = [{key: value for key, value in vars(parser.parse_args(argv)).items() if key != "func"} for argv in lines]
    json.dump(read, sys.stdout, default=str)


def main() -> None:
    logging.disable(logging.WARNING)
    what = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what.add_argument("action", choices=("tasks", "commands"))
    what.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = what.parse_args()
    if arguments.action == "tasks":
        _tasks(arguments.rest)
    else:
        _commands(json.load(sys.stdin))


if __name__ == "__main__":
    main()
