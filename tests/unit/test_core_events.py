"""Lines on stderr: written so that a machine reads them back, read so that nothing is lost."""

from __future__ import annotations

import io
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.errors import DiskFull
from containers.events import Event, Reporter, amount


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_line_is_one_json_object() -> None:
    """Even where a message has lines of its own."""
    stream = io.StringIO()
    report = Reporter(stream, structured=True)
    report.log("one\ntwo", "warning")
    report.error(DiskFull("no space left", remedy="free some"))
    log, error = lines(stream)
    assert (log["event"], log["level"], log["message"]) == ("log", "warning", "one\ntwo")
    assert (error["event"], error["exit_code"], error["remedy"]) == (
        "error",
        75,
        "free some (`carwright doctor`, line `disk`)",
    )
    assert str(log["time"]).endswith("+00:00")


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    stream = io.StringIO()
    Reporter(stream).log("hello")
    assert Event.parse(stream.getvalue().rstrip("\n")).message == "hello"


def test_progress_ends_with_the_final_amount() -> None:
    """However seldom the lines in between are, also when the work fails."""
    stream = io.StringIO()
    report = Reporter(stream, structured=True)

    def work() -> None:
        with report.progress("read", total=1000) as progress:
            for _ in range(10):
                progress.advance(70)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    said = [Event.model_validate(line) for line in lines(stream)]
    assert said[0].done == 0
    assert (said[-1].task, said[-1].done, said[-1].total, said[-1].unit) == ("read", 700, 1000, "B")
    assert len(said) < 12


def test_threads_do_not_mix_their_lines() -> None:
    stream = io.StringIO()
    report = Reporter(stream, structured=True)
    with report.progress("count", unit="") as progress:
        threads = [
            threading.Thread(target=lambda: [(report.log("x" * 500), progress.advance(1)) for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lines(stream)[-1]["done"] == 200
    assert sum(line["event"] == "log" for line in lines(stream)) == 200


@given(st.text())
def test_no_line_is_too_strange(line: str) -> None:
    """What is no event becomes a log line that holds it."""
    event = Event.parse(line)
    assert event.event == "log"
    assert event.message == line


@pytest.mark.parametrize("line", ['{"event": "party"}', '{"message": "no event"}', "{", '{"event": "log"', "[]"])
def test_json_that_is_no_event_is_kept_as_text(line: str) -> None:
    assert Event.parse(line) == Event(event="log", level="debug", message=line)


def test_a_newer_step_may_say_more() -> None:
    assert Event.parse('{"event":"log","message":"m","colour":"red"}').message == "m"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(event="log", message="m"), "m"),
        (Event(event="log", level="warning", message="m"), "warning: m"),
        (Event(event="error", level="error", message="m", remedy="r"), "error: m\n  r"),
        (Event(event="progress", task="read", done=1500, total=3_000_000, unit="B"), "read: 1.5 kB of 3.0 MB"),
        (Event(event="progress", task="ask", done=3, unit="questions"), "ask: 3 questions"),
    ],
)
def test_lines_for_people(event: Event, text: str) -> None:
    assert event.text() == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (810e9, "810.0 GB"), (1.5e12, "1.50 TB")],
)
def test_bytes_are_counted_in_powers_of_1000(value: float, text: str) -> None:
    assert amount(value, "B") == text
