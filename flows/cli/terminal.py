"""Displays a command's progress: bars with rates on a terminal, plain lines elsewhere.

Most of what is displayed was written by others: names of models and files, scores, reports, errors of servers. So no text is
read as rich's markup, and no control character reaches the terminal, whatever it came in.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
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
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from containers.foreign_text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from containers.errors import Error
    from containers.events import Event
    from flows.release.summary import Shipped


class SafeConsole(Console):
    """A console that interprets nothing in a text: no markup, no `:emoji:`, no control character, no secret in a URL.

    Style is given by `Text` objects and the styles of tables alone.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, and those in tables: cleaned whole, since a URL that was wrapped no longer shows what is secret in it."""
        return super().render_str(clean(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed passes here, the cells of tables before their width is measured."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


out = SafeConsole()
err = SafeConsole(stderr=True)

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
            message = event.message.replace(
                "\n", "\n" + " " * 11
            )  # what it quotes cannot pose as a line of another step
            console.print(Text.assemble((f"{step:>9}  ", "bold cyan"), (message, style)), soft_wrap=True)

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
                event.task, total=event.total or None, unit=event.unit, step=f"{step:>9}"
            )
        self._progress.update(self._bars[key], completed=event.done, total=event.total or None)


@contextmanager
def display(*, verbose: bool = False) -> Iterator[Display]:
    """Show events until the block ends."""
    if not err.is_terminal:
        yield Display(None, verbose=verbose)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[step]}", style="bold cyan", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        _Amount(),
        TimeElapsedColumn(),
    )
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
    """Print an error and its remedy. Only the first line begins in the first column: a quoted text cannot pose as an error."""
    err.print(Text.assemble(("error: ", "bold red"), _indented(error.message)), soft_wrap=True)
    if error.remedy:
        err.print(Text(f"  {_indented(error.remedy)}"), soft_wrap=True)


def line(text: str, *, error: bool = False) -> None:
    """Print one line as it is, for programs that read it, without wrapping; a line break in it does not start a new one."""
    print(_indented(clean(text)), file=sys.stderr if error else sys.stdout)


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
