"""Displays a command's progress: bars with rates on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.errors import Error
    from containers.events import Event
    from flows.release.summary import Shipped

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_PLAIN_INTERVAL = 10.0  # seconds between two progress lines of one task where there is no terminal


class _Amount(ProgressColumn):
    """Bytes with a rate, or a plain count."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes, self._rate, self._count = DownloadColumn(), TransferSpeedColumn(), MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        if task.fields["unit"] == "B":
            return Text.assemble(self._bytes.render(task), " ", self._rate.render(task))
        return Text.assemble(self._count.render(task), f" {task.fields['unit']}")


class Display:
    """A listener for events (`flows.runtime.Listener`); safe to call from several threads."""

    def __init__(self, progress: Progress | None, *, verbose: bool) -> None:
        self._progress = progress
        self._verbose = verbose
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._shown: dict[tuple[str, str], float] = {}
        self._finished: set[tuple[str, str]] = set()

    def __call__(self, step: str, event: Event) -> None:
        if event.event == "progress":
            self._advance(step, event)
        elif event.event == "log" and (self._verbose or event.level != "debug"):
            style = {"warning": "yellow", "error": "red", "debug": "dim"}.get(event.level, "")
            console = self._progress.console if self._progress is not None else err
            console.print(Text.assemble((f"{step:>9}  ", "bold cyan"), (event.message, style)), soft_wrap=True)

    def _advance(self, step: str, event: Event) -> None:
        key = (step, event.task)
        finished = bool(event.total) and event.done >= event.total
        if self._progress is None:
            now = time.monotonic()
            if now - self._shown.setdefault(key, now) >= _PLAIN_INTERVAL or (finished and key not in self._finished):
                self._shown[key] = now
                err.print(f"{step:>9}  {event.text()}", soft_wrap=True)
            if finished:
                self._finished.add(key)
            return
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(
                f"[bold cyan]{step:>9}[/]  {event.task}", total=event.total or None, unit=event.unit
            )
        self._progress.update(self._bars[key], completed=event.done, total=event.total or None)


@contextmanager
def display(*, verbose: bool = False) -> Iterator[Display]:
    """Show events until the block ends."""
    if not err.is_terminal:
        yield Display(None, verbose=verbose)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), _Amount(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=False) as progress:
        yield Display(progress, verbose=verbose)


def show_shipped(shipped: Shipped) -> None:
    """The summary table at the end of a run, on standard output."""
    steps = Table(title="steps", title_justify="left", box=None, padding=(0, 2))
    for name, justify in (("step", "left"), ("state", "left"), ("time", "right"), ("", "left")):
        steps.add_column(name, justify=justify)  # type: ignore[arg-type]
    for step in shipped.steps:
        steps.add_row(step.name, step.state, f"{step.seconds:.1f} s", step.what)
    facts = Table(box=None, show_header=False, padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, text in shipped.facts():
        facts.add_row(name, Text(text))
    out.print(steps)
    out.print()
    style = "green" if shipped.tags else "red"
    out.print(Panel(facts, title=Text(shipped.verdict.decision.upper(), style), border_style=style, expand=False))


def show_error(error: Error) -> None:
    """Print an error and its remedy."""
    err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.remedy:
        err.print(Text(f"  {error.remedy}"), soft_wrap=True)
