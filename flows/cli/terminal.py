"""What a command shows: results on standard output; progress, messages and errors on standard error.

Whatever people copy (a digest, a command, a URL, a path) stands in one piece, in a line that is neither broken nor cut: there
are no boxes, and a terminal that is too narrow breaks a line by itself, which its selection and the clipboard undo.

Most of it was written by others: names of models and files, scores, reports, errors of servers. So no text is read as rich's
markup, no control character reaches the terminal, and no line break in a text begins a line that could pose as another's.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from containers.events import Event, amount
from containers.events import Reporter as EventReporter
from containers.foreign_text import clean, one_line
from flows.unread_output import go_quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from containers.errors import Error
    from flows.release.summary import Shipped


class SafeConsole(Console):
    """A console that interprets nothing in a text: no markup, no `:emoji:`, no control character, no secret in a URL.

    Style is given by `Text` objects and the styles of columns alone. No line is wrapped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, "soft_wrap": True, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, and those in tables: cleaned whole, since a URL that was wrapped no longer shows what is secret in it."""
        return super().render_str(clean(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed passes here, the cells of tables before their width is measured."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """`carwright ship ... | head`: the work goes on, unread."""
        go_quiet(self)


out = SafeConsole()
err = SafeConsole(stderr=True)
_failures = SafeConsole(stderr=True)  # which `be_quiet` leaves

_PLAIN_INTERVAL: Final = 5.0  # seconds between two progress lines of one step where there is no terminal
_MARGIN: Final = 11  # columns of the step's name
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
            message = _indented(event.message, _MARGIN)
            text = Text.assemble((f"{step:>9}  ", "bold cyan"), (message, _STYLES.get(event.level, "")))
            console.print(text, soft_wrap=True)

    def _advance(self, step: str, event: Event) -> None:
        """One line for each task that is under way; the next task of a step takes the place of one that is done.

        A run that is followed names in its task how far it is, so there the line is the step's.
        """
        assert self._progress is not None
        key = (step, "" if event.unit == "%" else event.task)
        total = event.total or None
        if key not in self._bars:
            for other, bar in [one for one in self._bars.items() if one[0][0] == step]:
                if self._progress.tasks[self._progress.task_ids.index(bar)].finished:
                    self._progress.remove_task(bar)
                    del self._bars[other]
            self._bars[key] = self._progress.add_task("", total=total, unit=event.unit, step=f"{step:>9}")
        task = one_line(event.task)
        self._progress.update(self._bars[key], completed=event.done, total=total, description=task)

    def _tell(self, step: str, event: Event) -> None:
        """A line every few seconds; a task that takes no longer is told by what the step says itself."""
        now, followed = time.monotonic(), event.unit == "%"
        began, at_first = self._began.setdefault((step, "" if followed else event.task), (now, event.done))
        if now - self._shown.setdefault(step, now) < _PLAIN_INTERVAL:
            return
        self._shown[step] = now
        rate = (event.done - at_first) / (now - began) if now > began else 0.0
        left = (event.total - event.done) / rate if event.total and rate > 0 else None
        told = f"{one_line(event.task)} ({event.done:.0f} %)" if followed else event.text() + _rate(rate, event.unit)
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
    console = SafeConsole(stderr=True, soft_wrap=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[step]}", style="bold cyan", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
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

    Columns are as wide as their longest cell, whatever the terminal's width: put what may be long last. A line break in a
    cell is shown as its escape.
    """
    cells = [[one if isinstance(one, Text) else Text(one_line(one, len(one))) for one in row] for row in rows]
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
    """Print an error, its remedy, and where more is said. Only the first line begins in the first column."""
    _failures.print(Text.assemble(("error: ", "bold red"), _indented(error.message)))
    if error.remedy:
        _failures.print(f"  {_indented(error.remedy)}")
    if error.log and error.log not in f"{error.message} {error.remedy}":
        _failures.print(f"  log: {_indented(error.log)}")


def document(values: Any) -> None:
    """Print the one JSON document of a command with --json (docs/reference/json.md)."""
    write(json.dumps(values, indent=2))


def write(text: str) -> None:
    """Print a result as it is, at once, since `serve` goes on. That nobody reads it any more is no error, as on a console."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        go_quiet(out)


def line(text: str, *, error: bool = False) -> None:
    """Print one line: as it is for programs that read it, or as a note on standard error."""
    if error:
        err.print(_indented(text))
    else:
        write(_indented(clean(text)))


def _indented(text: str, margin: int = 2) -> str:
    return text.replace("\n", "\n" + " " * margin)
