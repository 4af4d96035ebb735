"""Every `carwright ...` command that a text of the project names, as the command line's own parser reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.printed_commands import PLACE, fault, in_code, in_text, of_project

if TYPE_CHECKING:
    from pathlib import Path


def test_every_command_is_one_that_the_parser_takes(root: Path) -> None:
    """In remedies and other messages, help, comments, templates, documents: with arguments, whole; without, by its name."""
    found = of_project(root)
    wrong = [f"{path}: carwright {command}: {why}" for path, command in found if (why := fault(command))]
    assert not wrong, "\n" + "\n".join(wrong)
    seen = {(path, command.partition(" ")[0]) for path, command in found}
    assert {
        ("README.md", "ship"),
        ("docs/how-to/deploy.md", "deploy"),
        ("flows/release/templates/card.md.j2", "push"),
        ("flows/local/run_record.py", "runs"),
        ("flows/cli/trust.py", "keys"),
    } <= seen


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("see `carwright tidy`", "no command 'tidy'"),
        ("$ .venv/bin/carwright clean --everything", "No such option: --everything"),
        ("run `carwright images bake`, then", "no command 'bake'"),
        ("    carwright ship hf://a/b \\\n  --into x", "No such option: --into"),
        ("`carwright serve --port many x`", "unable to parse string as an integer"),
        ("`carwright push folder`", "Missing argument"),
        ("`carwright verify one two`", "unexpected extra argument"),
        ("`carwright clean --older`", "requires an argument"),
        ("`carwright ship hf://a/b --gate-profile none`", "is not one of"),
    ],
)
def test_what_the_parser_refuses_is_found(text: str, why: str) -> None:
    (command,) = in_text(text)
    assert why in (fault(command) or "")


def test_commands_of_code_are_read_as_python_joins_them() -> None:
    """Over lines, and with the fields of an f-string as words."""
    source = (
        'raise BadInput("no", remedy="`carwright clean "\n    "--everything` helps")\n'
        'say(f"try `carwright serve {shlex.quote(what)} --port {port}`")\n'
        "name = 'Carwright is not carwright here'\n"
    )  # fmt: skip
    assert sorted(in_code(source)) == ["clean --everything", f"serve {PLACE} --port {PLACE}"]
    assert [bool(fault(one)) for one in sorted(in_code(source))] == [True, False]


@pytest.mark.parametrize(
    "command", ["clean --all", "images build push", "quantize MODEL --plan", "--help", "serve", "keys new"]
)
def test_what_exists_passes(command: str) -> None:
    """A command that is only named need not have its arguments."""
    assert fault(command) is None
