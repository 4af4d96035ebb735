"""The `carwright ...` commands in the texts of the project, and what the command line's own parser says to each."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import typer
import typer.main

from flows.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A command is named in backticks, after a prompt or at the start of a line of an example; prose says "Carwright".
_NAMED: Final = re.compile(
    r"(?:`|\$ |\.venv/bin/|\[bold\]|\$\(|^\s+|^)carwright(?:\[/\])? ((?:[a-z][a-z-]*|--[a-z])(?:\\\n|[^`\n])*)",
    re.MULTILINE,
)
_END: Final = re.compile(r"\s[|;#&>]|;\s|\[/|&&|\)$|\)[\".,;]|\"\)|[.,:]$|[.,:] ")
_FIELD: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{[^{}]*\}|\$\{?\w+\}?|\$\([^)]*\)")
_UsageError: Any = typer.BadParameter.__mro__[1]  # the parser's own, of whichever click typer has
_INVALID: Final = re.compile(r"^Invalid value for '(--[a-z-]+)'")
_STANDS_FOR: Final = re.compile(r"[A-Z_]+|<.*>")  # a number, say
_STANDS_FOR_CHOICE: Final = re.compile(r"'[A-Z_]+' is not ")
PLACE: Final = "PLACEHOLDER"  # what a field of an f-string or a template is read as
_FOLDERS: Final = ("flows", "infra", "containers", "docs")
_TEXTS: Final = {".md", ".yaml", ".toml", ".j2", ".in"}


def in_text(text: str) -> Iterator[str]:
    """What follows `carwright` at each place of a text, to the end of the command."""
    for match in _NAMED.finditer(text):
        command = _FIELD.sub(PLACE, match[1].replace("\\\n", " "))
        yield _END.split(command, maxsplit=1)[0].strip()


def in_code(source: str) -> Iterator[str]:
    """Those of a module's texts: string literals as Python joins them, with every field of an f-string as `PLACE`."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else PLACE for part in node.values]
            yield from in_text("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield from in_text(node.value)


def of_project(root: Path) -> list[tuple[str, str]]:
    """Every command with the file that it is in."""
    found = [(name, command) for name in ("README.md", "Makefile", "Containerfile", "CONTRIBUTING.md", "SECURITY.md")
             for command in in_text((root / name).read_text())]  # fmt: skip
    for path in sorted(path for top in _FOLDERS for path in (root / top).rglob("*")):
        if path.suffix == ".py":
            commands = in_code(path.read_text())
        elif path.suffix in _TEXTS:
            commands = in_text(path.read_text())
        else:
            continue
        found += [(path.relative_to(root).as_posix(), command) for command in commands]
    return found


@cache
def _parser() -> Any:
    return typer.main.get_command(app)


def fault(command: str) -> str | None:
    """What the parser says against a command line, None if it would take it.

    A command that is only named, without arguments, need not have those that it requires. Nothing is run.
    """
    try:
        words = shlex.split(
            command.replace("[", " ").replace("]", " ").replace("'", " ") if command.count("'") % 2 else command
        )
    except ValueError as error:
        return str(error)
    words = [word for word in words if word != "..."]
    current = _parser()
    while words and hasattr(current, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in current.commands:
            return f"there is no command {name!r}"
        current = current.commands[name]
    if not words or "--help" in words or hasattr(current, "commands"):
        return None
    try:
        current.make_context(current.name, list(words))
    except typer.Exit:
        return None
    except _UsageError as error:
        told: Any = error
        if _STANDS_FOR_CHOICE.search(told.format_message()):
            return None
        option = _INVALID.search(told.format_message())
        if option and _STANDS_FOR.fullmatch(_value(words, option[1])):
            return None
        return f"`{current.name}`: {told.format_message()}"
    return None


def _value(words: list[str], option: str) -> str:
    """What is given to an option."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return word.partition("=")[2] or following
    return ""
