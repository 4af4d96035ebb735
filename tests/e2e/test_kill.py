"""kill -9 in the middle of every step, then the same command again: it finishes, with the same digest."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from containers.events import Event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

# step package, and what its log must show before it is killed: bytes on their way, or work begun
STEPS = (("download", "bytes"), ("quantize", "bytes"), ("push", "bytes"), ("serve", "log"), ("evaluate", "log"))


def _how_far(folder: Path, wanted: str) -> Event | None:
    """The last event of a step that is under way: it has moved bytes, or at least begun, and is not done."""
    log = folder / "log.jsonl"
    events = [Event.parse(line) for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    if wanted == "log":
        return events[-1] if events else None
    moving = [event for event in events if event.event == "progress" and event.done > 0]
    return moving[-1] if moving else None


def _kill_in(workspace: Workspace, step: str, wanted: str) -> Event:
    """Start the chain, and SIGKILL the step's process as soon as it has got somewhere."""
    process = workspace.start("ship")
    try:
        while True:
            assert process.poll() is None, f"the chain ended before {step} could be killed: {process.communicate()[1]}"
            found = workspace.step_process(step)
            event = _how_far(found[1], wanted) if found and not (found[1] / "result.json").exists() else None
            if found and event:
                os.kill(found[0], signal.SIGKILL)
                break
            time.sleep(0.005)
        _, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode not in {0, 2, 3, 75}, stderr
    assert "SIGKILL" in stderr
    assert workspace.none_left() == {}
    return event


def test_killed_in_every_step_and_run_again(
    workspace: Workspace, shipped: dict[str, Any], record_property: pytest.RecordProperty
) -> None:
    for step, wanted in STEPS:
        event = _kill_in(workspace, step, wanted)
        record_property(f"killed in {step}", event.text())
        print(f"killed in {step}: {event.text()}")

    # the command itself, while a step works: its children must not outlive it
    process = workspace.start("ship")
    while workspace.step_process("serve") is None:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert workspace.none_left() == {}

    finished = workspace.run("ship", "--json").json()
    assert finished["digest"] == shipped["digest"]
    assert finished["tags"] == shipped["tags"]
    states = {entry["name"]: entry["state"] for entry in finished["steps"]}
    assert states["download"] == "cached"
    assert states["quantize"] == "cached"
    assert workspace.none_left() == {}
    records = json.loads(workspace.run("runs", "--json").stdout)
    assert records[0]["state"] == "shipped"
