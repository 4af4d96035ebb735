"""Sweeping containers where the engine cannot remove one: the others go, and that one is told."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from containers.errors import Temporary
from flows.cli.main import app
from flows.runners.docker import sweeper
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Engine:
    """Three containers of runs that have ended; the first stays busy."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def containers(self, part: str = "") -> list[Any]:
        if part:
            return []
        labels = {"run": "r", "step": "push", "flow-run": "9"}
        return [SimpleNamespace(name=name, labels=labels) for name in ("busy", "second", "third")]

    def remove(self, name: str) -> None:
        if name == "busy":
            raise Temporary("cannot remove busy: device or resource busy")
        self.removed.append(name)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()

    @contextmanager
    def connect(_: object) -> Iterator[Engine]:
        yield engine

    monkeypatch.setattr(sweeper, "connect", connect)
    monkeypatch.setattr(sweeper, "flow_run_goes_on", lambda _: False)
    return engine


def test_one_that_cannot_be_removed_keeps_no_other(engine: Engine) -> None:
    found = sweeper.sweep(Settings().docker)
    assert engine.removed == ["second", "third"]
    assert [(one.name, one.removed, one.failed) for one in found] == [
        ("busy", False, True),
        ("second", True, False),
        ("third", True, False),
    ]
    assert "resource busy" in found[0].why


@pytest.mark.usefixtures("engine")
def test_the_command_lists_all_and_ends_as_temporary() -> None:
    result = CliRunner().invoke(app, ["sweep", "--json"])
    assert [one["removed"] for one in json.loads(result.stdout)] == [False, True, True]
    assert isinstance(result.exception, Temporary)
    assert "busy" in str(result.exception)
