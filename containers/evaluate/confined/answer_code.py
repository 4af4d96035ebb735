"""Extracts the requested function from a model's answer: its Python code, without markdown and other top-level code."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Final

_FENCE: Final = re.compile(r"^```[^\n]*\n(?P<code>.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)
_KEPT: Final = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


def extract_code(answer: str, entry_point: str) -> str:
    """Imports, definitions and assignments of the block that defines `entry_point`; empty when none does.

    Calls, prints and other top-level statements are dropped, as EvalPlus drops them before scoring. Of a truncated block,
    the valid part counts.
    """
    blocks = [found["code"] for found in _FENCE.finditer(answer)] or [answer]
    for block in blocks:
        tree = _parsed(block)
        kept: list[ast.stmt] = [one for one in tree.body if isinstance(one, _KEPT)]
        if any(isinstance(one, ast.FunctionDef) and one.name == entry_point for one in kept):
            return ast.unparse(ast.Module(kept, type_ignores=[]))
    return ""


def _parsed(text: str) -> ast.Module:
    """The longest valid prefix of the lines, parsed; an empty module if there is none."""
    lines = text.rstrip().split("\n")
    for count in range(len(lines), 0, -1):
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes that it does not know
                return ast.parse("\n".join(lines[:count]))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
    return ast.Module([], type_ignores=[])
