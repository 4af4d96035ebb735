"""What a command shows is right on 80 columns, without colours, on a dumb terminal and in a pipe."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from containers.events import Event
from flows.cli import terminal
from flows.cli.main import app
from tests.support import showing
from tests.support.download_world import checkpoint
from tests.support.narrow import Shown, on_terminal, piped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHOWING = ["-m", "tests.support.showing"]
CARWRIGHT = ["-m", "flows.cli.main"]
BOX = re.compile("[╭╮╰╯│┃┏┓┗┛┡┩]")
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")

WAYS = {
    "terminal": on_terminal,
    "narrow": lambda argv, folder: on_terminal(argv, folder, columns=40),
    "without colours": lambda argv, folder: on_terminal(argv, folder, NO_COLOR="1"),
    "dumb": lambda argv, folder: on_terminal(argv, folder, TERM="dumb"),
    "pipe": piped,
    "pipe with colours": lambda argv, folder: piped(argv, folder, FORCE_COLOR="1"),
}


@pytest.fixture(scope="module")
def showing_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shown]:
    """What a run shows, by the name of a way; each is run once."""
    return cache(lambda name: WAYS[name](SHOWING, tmp_path_factory.mktemp("showing")))


@pytest.mark.parametrize("way", WAYS)
def test_what_people_copy_is_in_one_piece(way: str, showing_by: Callable[[str], Shown]) -> None:
    shown = showing_by(way)
    assert shown.code == 0, shown.raw
    for text in (*showing.RESULTS, *showing.MESSAGES, f"log: {showing.LOG}", "(`carwright doctor`, line `hub`)"):
        assert text in shown.raw
    assert not BOX.search(shown.raw)


@pytest.mark.parametrize("way", ["dumb", "pipe"])
def test_no_escape_code_goes_where_it_is_not_understood(way: str, showing_by: Callable[[str], Shown]) -> None:
    """And no bar: steps that take less than a few seconds are told by their results."""
    raw = showing_by(way).raw
    assert "\x1b" not in raw
    assert "\r" not in raw
    assert "━" not in raw
    assert not any(f"{step} {showing.FILE}" in raw for step in showing.STEPS)


def test_a_pipe_gets_no_bar_even_if_colours_are_forced(showing_by: Callable[[str], Shown]) -> None:
    assert "━" not in showing_by("pipe with colours").raw


def test_no_colour_where_none_is_wanted(showing_by: Callable[[str], Shown]) -> None:
    assert COLOUR.search(showing_by("terminal").raw)
    assert not COLOUR.search(showing_by("without colours").raw)


def test_a_terminal_has_one_live_line_a_step(showing_by: Callable[[str], Shown]) -> None:
    """With the amount, the rate and the time, on one line of the terminal each."""
    raw = showing_by("terminal").raw
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    for step in showing.STEPS:
        lines = [line.strip() for line in plain.splitlines() if "━" in line and step in line]
        assert lines
        assert re.search(rf"{step} .*… ━+ +1\.0/1\.0 GB, [0-9.]+ [kMGT]?B/s \d?\d:\d\d$", lines[-1]), lines[-1]
        assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("way", ["terminal", "pipe"])
def test_quiet_leaves_the_result_and_the_error(way: str, tmp_path: Path) -> None:
    raw = WAYS[way]([*SHOWING, "quiet"], tmp_path).raw
    assert all(text in raw for text in showing.RESULTS)
    assert f"log: {showing.LOG}" in raw
    assert "Prefect UI" not in raw
    assert "━" not in raw


def test_quiet_is_an_option_of_the_command(tmp_path: Path) -> None:
    """A push tells its plan before it begins; with `--plan` that is the result."""
    checkpoint(tmp_path / "model")
    push = ["push", "model", "oci:image", "--base", "none"]
    plan = piped([*CARWRIGHT, "--quiet", *push, "--plan"], tmp_path)
    quiet = piped([*CARWRIGHT, "--quiet", *push], tmp_path)
    again = piped([*CARWRIGHT, *push], tmp_path)
    wrong = piped([*CARWRIGHT, "-q", "push", "nowhere", "oci:image"], tmp_path)
    assert [one.code for one in (plan, quiet, again, wrong)] == [0, 0, 0, 2]
    assert plan.raw.startswith("oci:image: ")
    assert quiet.raw.startswith("oci:image@sha256:")
    assert again.raw.startswith(plan.raw)
    assert wrong.raw.startswith("error: ")


def test_settings_and_runs_are_in_one_piece(tmp_path: Path) -> None:
    cache = f"{tmp_path}/{'a-long-name/' * 10}cache"
    url = "https://store.example.com/" + "path/" * 20
    shown = on_terminal([*CARWRIGHT, "settings"], tmp_path, CARWRIGHT_CACHE=cache, CARWRIGHT_STORE__ENDPOINT=url)
    assert cache in shown.raw
    assert url in shown.raw
    record = {
        "model": "hf://" + "org/" * 30,
        "state": "shipped",
        "shipped": {"digest": str(showing.DIGEST), "tags": ["t"]},
    }
    (tmp_path / ".carwright" / "runs" / "20260102T030405").mkdir(parents=True)
    (tmp_path / ".carwright" / "runs" / "20260102T030405" / "summary.json").write_text(json.dumps(record))
    shown = on_terminal([*CARWRIGHT, "runs"], tmp_path)
    assert str(showing.DIGEST) in shown.raw
    assert record["model"] in shown.raw


@pytest.mark.parametrize("command", ["eval", "compare", "card"])
def test_examples_of_the_help_fit_on_a_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plain = CliRunner().invoke(app, [command, "--help"]).output.splitlines()
    assert max(map(len, plain)) == 80
    examples = [number for number, line in enumerate(plain) if line.startswith(f" carwright {command} ")]
    assert examples
    assert all(not plain[number + 1].strip() for number in examples)


def test_plain_progress_comes_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rate and the time left, and never more often, however many tasks a step has."""
    clock = itertools.count()
    monkeypatch.setattr("flows.cli.terminal.time.monotonic", lambda: next(clock))
    with terminal.display() as show:
        for second in range(1, 13):
            show("download", Event(event="progress", task="download", done=second * 1e8, total=1e10, unit="B"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.split() == [
        "download",
        "download:",
        "600.0",
        "MB",
        "of",
        "10.0",
        "GB,",
        "100.0",
        "MB/s,",
        "94",
        "s",
        "left",
    ]
    assert second.split() == [
        "download",
        "download:",
        "1.1",
        "GB",
        "of",
        "10.0",
        "GB,",
        "100.0",
        "MB/s,",
        "89",
        "s",
        "left",
    ]


def test_a_followed_run_is_told_as_its_server_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its task says how far it is, and changes."""
    clock = itertools.count(step=5)
    monkeypatch.setattr("flows.cli.terminal.time.monotonic", lambda: next(clock))
    with terminal.display() as show:
        for done in (10, 20):
            task = f"download: {done / 10:.1f} GB of 10.0 GB, 200.0 MB/s"
            show("download", Event(event="progress", task=task, done=done, total=100, unit="%"))
    assert capsys.readouterr().err.strip() == "download  download: 2.0 GB of 10.0 GB, 200.0 MB/s (20 %), 40 s left"


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table(("size", "what"), [("1 B", "漢字"), ("1000 B", "[bold]x :smile:")], right={0})
    assert capsys.readouterr().out == "    size  what\n     1 B  漢字\n  1000 B  [bold]x :smile:\n"
