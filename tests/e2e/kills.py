"""kill -9 in the middle of a step, while bytes are moving."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from containers.events import Event

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.workspace import Workspace

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


def kill_in(workspace: Workspace, step: str, wanted: str) -> Event:
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
