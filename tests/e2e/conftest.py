"""The demo model, shipped once for all tests that look at what came out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.workspace import Ended, Workspace
from tests.support.canaries import CANARIES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Where the demo was shipped for the first time."""
    return Workspace(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def first_run(first: Workspace) -> tuple[Ended, set[str]]:
    """The first run, by a user who has set secrets, and the command lines of its processes."""
    return replace(first, variables=CANARIES).run_watched("ship", "--json")


@pytest.fixture(scope="session")
def shipped(first_run: tuple[Ended, set[str]]) -> dict[str, Any]:
    """The summary of that run."""
    return first_run[0].json()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty folder."""
    return Workspace(tmp_path)
