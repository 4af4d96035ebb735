"""Text of others: nothing in it moves a cursor, forges a line, turns text around, or shows what is secret in a URL."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from containers.errors import BadInput
from containers.events import Event, Reporter
from containers.foreign_text import clean, code_span, masked, one_line
from flows.cli import terminal
from flows.cli.terminal import Display, SafeConsole

# What a name, a server's error or a report may hold that a terminal or a log would obey.
ATTACKS = [
    "\x1b[31mred",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1bP+q544e\x1b\\",
    "\x9b31mC1",
    "\x9d0;title\x9c",
    "over\rwritten",
    "back\x08\x08\x08space",
    "null\x00",
    "\x7f",
    "\u202egpj.exe",
    "\u2066isolate\u2069",
    "\u200emark\u200f",
    "\u061calm",
    "\ufeffbom",
    "\u2028line",
    "\u2029paragraph",
    "\x85nextline",
    "\x0bvertical\x0cform",
    "\U000e0041tag",
    "\ud800",
    "\u00adsoft",
    "[bold]markup[/bold]",
    "[/nothing-open]",
    "[link=http://evil.example]click[/link]",
    ":skull:",
]

# What was written, and the part of it that may be seen nowhere.
SECRET_ATTACKS = [
    ("https://user:hunter2@host/x", "hunter2"),
    ("http://user:p@ss:hunter2@host", "hunter2"),
    ("https://ghp_hunter2@host/x", "hunter2"),
    ("https://:hunter2@host:5000/v2/", "hunter2"),
    ("cannot connect to tcp://me:hunter2@engine:2376", "hunter2"),
    ("ssh://me:hunter2@engine", "hunter2"),
    ("redis://:hunter2@cache/0", "hunter2"),
    ("https://h/k?X-Amz-Signature=hunter2&x=1", "hunter2"),
    ("https://h/k?x=1&x-amz-signature=hunter2", "hunter2"),
    ("https://h/k?X-Amz-Credential=hunter2%2F2026", "hunter2"),
    ("https://h/k?X-Amz-Security-Token=hunter2", "hunter2"),
    ("https://h/k?X-Goog-Signature=hunter2", "hunter2"),
    ("https://h/k?sv=1&sig=hunter2&se=2", "hunter2"),
    ("https://h/k?Signature=hunter2&Key-Pair-Id=a", "hunter2"),
    ("https://h/k?token=hunter2", "hunter2"),
    ("https://h/k?access_token=hunter2;b=1", "hunter2"),
    ("https://h/k#access_token=hunter2", "hunter2"),
    ("https://h/k?client_secret=hunter2", "hunter2"),
    ("https://h/k?password=hunter2", "hunter2"),
    ("https://h/k?api_key=hunter2", "hunter2"),
    ("https://h/uploads/1?_state=hunter2", "hunter2"),
    ("you sent Authorization: Basic aHVudGVyMjpodW50ZXIy", "aHVudGVyMjpodW50ZXIy"),
    ("you sent bearer eyJhbGciOi.hunter2-hunter2.x", "hunter2"),
]


def hidden(text: str, but: str = "") -> set[str]:
    return {one for one in text if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and one not in but}


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_it_is_shown_and_not_obeyed(attack: str) -> None:
    """By every way to a terminal or a log: as text, as an error, as an event, in a table, in a log line of a step."""
    assert not hidden(clean(attack), "\n\t")
    assert not hidden(one_line(attack))
    assert not hidden(BadInput(attack, remedy=attack).message + BadInput("", remedy=attack).remedy, "\n\t")
    assert not hidden(str(BadInput(attack, remedy=attack)), "\n\t")
    assert not hidden(Event(event="error", message=attack, remedy=attack, task=attack, unit=attack).text(), "\n\t")
    assert not hidden(Event(event="progress", message="", task=attack, unit=attack).text())

    for structured in (True, False):
        stream = io.StringIO()
        Reporter(stream, structured=structured).log(attack)
        assert not hidden(stream.getvalue().removesuffix("\n"))

    shown = io.StringIO()
    console = SafeConsole(file=shown, force_terminal=True, color_system=None, width=100, legacy_windows=False)
    table = Table(attack, title=attack, caption=attack)
    table.add_row(attack)
    table.add_row(Text(attack))
    console.print(attack)
    console.print(Text(attack))
    console.print(table, attack, f"a {attack} b")
    assert not hidden(shown.getvalue(), "\n\x1b"), shown.getvalue()
    assert all(part.startswith("[") for part in shown.getvalue().split("\x1b")[1:]), (
        "rich's own styles and nothing else"
    )
    if attack.isascii() and attack.isprintable():
        assert attack in shown.getvalue(), "markup is text"


@given(st.text())
def test_whatever_it_is(text: str) -> None:
    assert not hidden(clean(text), "\n\t\u200c\u200d")
    assert not hidden(one_line(text), "\u200c\u200d")
    assert clean(clean(text)) == clean(text)


@given(
    st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")).filter(
        lambda text: "/" not in text and "=" not in text
    )
)
def test_honest_text_is_left_alone(text: str) -> None:
    if "earer" not in text.lower() and "asic" not in text.lower():
        assert clean(text) == text


@pytest.mark.parametrize(
    "honest",
    [
        "hf://org/name@main",
        "registry.example.com:5000/org/name:v1@sha256:" + "0" * 64,
        "ssh://me@engine",
        "https://huggingface.co/org/name?expand=sha&expand=gated",
        "/v2/org/name/tags/list?n=1000",
        "Bearer realm is missing",
        "ein Wort: größer, 大きい",
        "a\tb\nc",
    ],
)
def test_what_is_no_secret_stays(honest: str) -> None:
    assert clean(honest) == honest


@pytest.mark.parametrize(("attack", "secret"), SECRET_ATTACKS, ids=lambda value: value[:40])
def test_a_secret_in_a_url_is_shown_nowhere(attack: str, secret: str) -> None:
    said = io.StringIO()
    Reporter(said, structured=True).error(BadInput(f"{attack} failed", remedy=f"see {attack}"))
    Reporter(said, structured=False).log(attack, "warning")
    console = SafeConsole(file=said, width=20)
    console.print(f"x {attack}")
    table = Table("a", "b")
    table.add_row(attack, attack)
    console.print(table)
    for shown in (
        masked(attack),
        str(BadInput(attack, remedy=attack)),
        repr(BadInput(attack)),
        code_span(attack),
        said.getvalue(),
    ):
        assert secret not in shown
        assert secret not in "".join(one for one in shown if one.isalnum() or one in "-._"), (
            "nor over the lines of a table"
        )


def test_a_quoted_text_cannot_pose_as_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_error(BadInput("the server said: x\nerror: everything is fine\n", remedy="do\nerror: this"))
    Display(None, verbose=False)("download", Event(event="log", message="name\n   push  sha256:forged"))
    terminal.line("one\ntwo", error=True)
    terminal.show_table(("name", "size"), [("a\nerror: forged\x1b[2J", "1 B"), ("https://u:hunter2@h/x", "2 B")])
    told = capsys.readouterr()
    first, second = told.out.splitlines()[1:]
    assert first.split() == ["a\\nerror:", "forged\\x1b[2J", "1", "B"]
    assert second.split() == ["https://***@h/x", "2", "B"]
    lines = told.err.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["error: the server said: x", "one"]
    assert not any(line.lstrip(" ").startswith("push") and line.index("push") < 11 for line in lines)


@pytest.mark.parametrize(
    "attack", ["a`b", "a``b`", "`", "a|b", "a\nb| c |\n# head", "x` | <img src=x> | `", *ATTACKS], ids=ascii
)
def test_a_cell_of_markdown_stays_one_cell(attack: str) -> None:
    span = code_span(attack)
    assert "\n" not in span
    assert "|" not in span.replace("\\|", "")
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert fence
    assert span.endswith(fence)
    assert fence not in span[len(fence) : -len(fence)]


def test_json_stays_json() -> None:
    stream = io.StringIO()
    Reporter(stream, structured=True).log('a "quoted" \\ \x1b[0m \u2028')
    assert json.loads(stream.getvalue())["message"] == 'a "quoted" \\ \\x1b[0m \\u2028'
