"""What becomes of a program whose output nobody reads any more: it goes on.

A run of a deployment writes to its worker, and a command to whatever its user piped it into; both can end first. The console
of rich, which Prefect's log and our commands write with, then raises SystemExit in the thread that happens to write. Where
that is the one that passes on a step's lines, the step in turn has no reader, and dies in its next line without a word.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def go_quiet(console: Console) -> None:
    """Write to nowhere from now on, what is still in the stream's buffer included."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, console.file.fileno())
    os.close(nowhere)


def outlive_worker() -> None:
    """Let the flow run of this process go on when its worker is killed: Prefect's console goes quiet, its log on the server does not."""
    from rich.console import Console

    Console.on_broken_pipe = go_quiet  # type: ignore[assignment, method-assign]
