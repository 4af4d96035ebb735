"""Environments are made ahead of their steps, and what fails is said while there is time to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.contract import Step
from infra.environments.ahead import prepare_ahead
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from containers.events import Event


def test_what_cannot_be_made_is_said_before_its_step_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "cache"
    occupied.write_text("a file where the folder should be")
    monkeypatch.setenv("CARWRIGHT_DEVICE", "cpu")
    said: list[tuple[str, Event]] = []
    for lane in prepare_ahead(Settings(cache=occupied), lambda name, event: said.append((name, event))):
        lane.join(30)
    assert {name for name, _ in said} == {step.value for step in Step}
    assert all(str(occupied) in event.message and "tried again" in event.message for _, event in said)
