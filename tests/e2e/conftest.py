"""The demo model, shipped once for all tests that look at what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Where the demo was shipped for the first time."""
    return Workspace(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def shipped(first: Workspace) -> dict[str, Any]:
    """The summary of that run."""
    return first.run("ship", "--json").json()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty folder."""
    return Workspace(tmp_path)
