"""The make targets and the CI script say what they do and do it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def test_make_alone_shows_every_target(root: Path) -> None:
    """With words for it; and none but the environment is taken for a file."""
    shown = subprocess.run(["make", "-s"], cwd=root, check=True, capture_output=True, text=True).stdout
    text = (root / "Makefile").read_text()
    targets = re.findall(r"^(\.?[a-z][\w-]*):", text, re.MULTILINE)
    assert re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE) == targets
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert {*phony.split(), ".venv"} == set(targets)


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_are_sound(root: Path, script: str) -> None:
    """They stop at the first error, parse, and can be started."""
    path = root / script
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text()
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_every_ignored_rule_has_a_reason(root: Path) -> None:
    """A rule that is switched off without a word is switched off for good."""
    text = (root / "pyproject.toml").read_text()
    block = text[text.index("\nignore = [") : text.index("[tool.ruff.lint.flake8-type-checking]")]
    silent = [line for line in block.splitlines() if re.search(r'"[A-Z]+\d*",?', line) and "#" not in line]
    assert not silent
