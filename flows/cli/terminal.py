"""What a command shows: results on standard output; progress, messages and errors on standard error.

Whatever people copy (a digest, a command, a URL, a path) stands in one piece, in a line that is neither broken nor cut: there
are no boxes, and a terminal that is too narrow breaks a line by itself, which its selection and the clipboard undo.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Column
from rich.text import Text

from containers.events import Event, amount
from containers.events import Reporter as EventReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from containers.errors import Error
    from flows.release.summary import Shipped


def _console(*, stderr: bool) -> Console:
    """Prints text as it is: no word of it is taken for markup or an emoji, and no line is wrapped."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


out = _console(stderr=False)
err = _console(stderr=True)
_failures = _console(stderr=True)  # which `be_quiet` leaves

_PLAIN_INTERVAL: Final = 5.0  # seconds between two progress lines of one step where there is no terminal
_STYLES: Final = {"warning": "yellow", "error": "red", "debug": "dim"}


def be_quiet() -> None:
    """From now on only results and errors are shown."""
    err.quiet = True


class _Amount(ProgressColumn):
    """How much is done, and the rate: bytes, a count, or seconds of waiting."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, justify="right"))
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text(amount(task.completed, unit))
        if unit == "%":
            return Text(f"{task.completed:.0f} %")
        done = self._bytes.render(task) if unit == "B" else Text(f"{task.completed:.0f}/{task.total:.0f} {unit}")
        return Text.assemble(done, _rate(task.finished_speed or task.speed, unit))


class Display:
    """A listener for events (`flows.runtime.Listener`); safe to call from several threads."""

    def __init__(self, progress: Progress | None, *, verbose: bool) -> None:
        self._progress = progress
        self._verbose = verbose
        self._lock = threading.Lock()
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._began: dict[tuple[str, str], tuple[float, float]] = {}
        self._shown: dict[str, float] = {}

    def __call__(self, step: str, event: Event) -> None:
        if event.event == "progress":
            with self._lock:
                self._advance(step, event) if self._progress is not None else self._tell(step, event)
        elif event.event == "log" and (self._verbose or event.level != "debug"):
            console = self._progress.console if self._progress is not None else err
            text = Text.assemble((f"{step:>9}  ", "bold cyan"), (event.message, _STYLES.get(event.level, "")))
            console.print(text, soft_wrap=True)

    def _advance(self, step: str, event: Event) -> None:
        """One line for each task that is under way; the next task of a step takes the place of one that is done.

        A run that is followed names in its task how far it is, so there the line is the step's.
        """
        assert self._progress is not None
        key = (step, "" if event.unit == "%" else event.task)
        description = f"[bold cyan]{step:>9}[/]  {escape(event.task)}"
        total = event.total or None
        if key not in self._bars:
            for other, bar in [one for one in self._bars.items() if one[0][0] == step]:
                if self._progress.tasks[self._progress.task_ids.index(bar)].finished:
                    self._progress.remove_task(bar)
                    del self._bars[other]
            self._bars[key] = self._progress.add_task(description, total=total, unit=event.unit)
        self._progress.update(self._bars[key], completed=event.done, total=total, description=description)

    def _tell(self, step: str, event: Event) -> None:
        """A line every few seconds; a task that takes no longer is told by what the step says itself."""
        now, followed = time.monotonic(), event.unit == "%"
        began, at_first = self._began.setdefault((step, "" if followed else event.task), (now, event.done))
        if now - self._shown.setdefault(step, now) < _PLAIN_INTERVAL:
            return
        self._shown[step] = now
        rate = (event.done - at_first) / (now - began) if now > began else 0.0
        left = (event.total - event.done) / rate if event.total and rate > 0 else None
        told = f"{event.task} ({event.done:.0f} %)" if followed else event.text() + _rate(rate, event.unit)
        err.print(f"{step:>9}  {told}" + (f", {left:.0f} s left" if left is not None else ""))


def _rate(speed: float | None, unit: str) -> str:
    if not speed or unit == "s":
        return ""
    return f", {amount(speed, 'B')}/s" if unit == "B" else f", {speed:.1f}/s"


@contextmanager
def display(*, verbose: bool = False) -> Iterator[Display]:
    """Show events until the block ends: one live line a step on a terminal, plain lines now and then elsewhere."""
    if err.quiet or not err.is_interactive or not err.file.isatty():  # FORCE_COLOR makes no terminal of a pipe
        yield Display(None, verbose=verbose)
        return
    console = Console(stderr=True, highlight=False, emoji=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        BarColumn(12),
        _Amount(),
        TimeLeftColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield Display(progress, verbose=verbose)


@contextmanager
def measured(step: str, total: int) -> Iterator[Callable[[int], None]]:
    """The same for work of this process itself, in bytes: yields what is called with each number of bytes done."""

    class Relay(EventReporter):
        def write(self, event: Event) -> None:
            show(step, event)

    with display() as show, Relay().progress(step, total) as progress:
        yield progress.advance


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Collection[int] = ()) -> None:
    """Columns side by side on standard output, without a box; the columns with the numbers in `right` end together.

    Columns are as wide as their longest cell, whatever the terminal's width: put what may be long last.
    """
    cells = [[one if isinstance(one, Text) else Text(one) for one in row] for row in rows]
    if any(headings):
        cells.insert(0, [Text(heading, "bold") for heading in headings])
    widths = [max(cell_len(cell.plain) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        line = Text("  ")
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - cell_len(cell.plain))
            line.append_text(Text.assemble(gap, cell, "  ") if number in right else Text.assemble(cell, gap, "  "))
        line.rstrip()
        out.print(line)


def show_shipped(shipped: Shipped) -> None:
    """The summary at the end of a run, on standard output."""
    steps = [(step.name, step.state, f"{step.seconds:.1f} s", step.what) for step in shipped.steps]
    show_table(("step", "state", "time", ""), steps, right={2})
    out.print()
    out.print(shipped.verdict.decision.upper(), style="bold green" if shipped.tags else "bold red")
    show_table(("", ""), [(Text(name, "bold"), text) for name, text in shipped.facts()])


def show_error(error: Error) -> None:
    """Print an error, its remedy, and where more is said."""
    _failures.print(Text.assemble(("error: ", "bold red"), error.message))
    if error.remedy:
        _failures.print(f"  {error.remedy}")
    if error.log and error.log not in f"{error.message} {error.remedy}":
        _failures.print(f"  log: {error.log}")
