"""Every `carwright ...` command that a text of the project names is there, with the options that the text gives it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from flows.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A command is named in backticks, after a prompt or at the start of a line of an example; prose says "Carwright".
_NAMED = re.compile(
    r"(?:`|\$ |\.venv/bin/|\[bold\]|^\s+)carwright(?:\[/\])? ((?:[a-z][a-z-]*|--[a-z])(?:\\\n|[^`\n])*)", re.MULTILINE
)
_FOLDERS = ("flows", "infra", "containers", "docs")
_SUFFIXES = {".py", ".md", ".yaml", ".toml", ".j2", ".in"}


def named_commands(text: str) -> Iterator[str]:
    """What follows `carwright` at each place; an f-string's fields stand as they are written."""
    for match in _NAMED.finditer(text):
        line = match[1].replace("\\\n", " ").partition("  #")[0]
        yield re.split(r"[|;\"]|\[/|&&|\. |, |\)", line)[0].strip()


def fault(command: str) -> str | None:
    """What is wrong with a command line, None for one that exists."""
    words = [word for word in command.replace("[", " ").replace("]", " ").split() if word]
    current: Any = typer.main.get_command(app)
    while words and hasattr(current, "commands") and not words[0].startswith("-"):
        name = words.pop(0).rstrip(".:,")
        if name not in current.commands:
            return f"there is no command {name!r}"
        current = current.commands[name]
    known = {name for parameter in current.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        option = word.partition("=")[0].rstrip(".:,")
        if re.fullmatch(r"--[a-z][a-z-]*|-[a-z]", option) and option not in known:
            return f"`{current.name}` has no option {option}"
    return None


def texts(root: Path) -> list[tuple[str, str]]:
    paths = [root / "README.md", root / "Makefile", root / "Containerfile"]
    paths += [path for top in _FOLDERS for path in sorted((root / top).rglob("*")) if path.suffix in _SUFFIXES]
    return [(path.relative_to(root).as_posix(), path.read_text()) for path in paths]


def test_what_texts_name_exists(root: Path) -> None:
    """In remedies, help, comments and documents."""
    seen, wrong = set[tuple[str, str]](), []
    for path, text in texts(root):
        for command in named_commands(text):
            seen.add((path, command.partition(" ")[0]))
            if (why := fault(command)) is not None:
                wrong.append(f"{path}: carwright {command}: {why}")
    assert {
        ("README.md", "ship"),
        ("docs/how-to/deploy.md", "deploy"),
        ("flows/release/templates/card.md.j2", "push"),
    } <= seen
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('remedy="see `carwright tidy`"', "no command 'tidy'"),
        ("$ .venv/bin/carwright clean --everything", "no option --everything"),
        ("run `carwright images bake`, then", "no command 'bake'"),
        ("    carwright ship hf://a/b \\\n  --into x", "no option --into"),
    ],
)
def test_what_does_not_exist_is_found(text: str, why: str) -> None:
    """A command, a command of a group, an option, also on a second line."""
    (command,) = named_commands(text)
    assert why in (fault(command) or "")


def test_what_exists_passes() -> None:
    """Words of a command line that are no options are not judged."""
    for command in ("clean --all", "images build push", "quantize MODEL --plan", "--help"):
        assert fault(command) is None
    assert list(named_commands("Carwright is not carwright here")) == []
