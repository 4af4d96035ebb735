"""The environments of all steps, made in the background while the first steps run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.errors import Error
from containers.events import Event
from infra.environments.environment import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.settings import Settings

# In the order in which they are needed, two at a time.
_LANES: Final = ((Step.DOWNLOAD, Step.QUANTIZE, Step.EVALUATE), (Step.SERVE, Step.PUSH))


def prepare_ahead(settings: Settings, on_event: Callable[[str, Event], None]) -> list[threading.Thread]:
    """Start to make them; `on_event` gets the name of the step and what happens to its environment.

    The threads are daemons, so a run that ends early does not wait for them. What fails is said at once, since the step may
    start hours later, and tried again by that step, which raises the error if there still is one.
    """

    def make(steps: tuple[Step, ...]) -> None:
        for step in steps:
            try:
                prepare(step, settings, lambda event, name=step.value: on_event(name, event))  # type: ignore[misc] # of this step
            except Error as error:
                said = f"{error.message}; it is tried again when the step starts" + (
                    f". {error.remedy}" if error.remedy else ""
                )
                on_event(step.value, Event(event="log", message=said))

    lanes = [
        threading.Thread(target=make, args=(lane,), daemon=True, name=f"environments-{lane[0]}") for lane in _LANES
    ]
    for lane in lanes:
        lane.start()
    return lanes
