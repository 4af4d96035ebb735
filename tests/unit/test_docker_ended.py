"""Containers of steps that have ended and could not be removed then."""

from __future__ import annotations

from typing import Any

import pytest

from containers.errors import Error, Temporary
from flows.runners.docker import launcher


class Busy:
    """An engine that cannot remove some containers."""

    def __init__(self, *busy: str) -> None:
        self.busy, self.gone = set(busy), set[str]()

    def remove(self, name: str) -> None:
        if name in self.busy:
            raise Temporary(f"the container engine failed to remove {name}: device or resource busy")
        self.gone.add(name)


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_abandoned", set[str]())
    monkeypatch.setattr(launcher, "_ended", {"one", "two"})


def test_a_container_that_stays_busy_does_not_fail_the_next_steps() -> None:
    engine: Any = Busy("one")
    launcher._remove_abandoned(engine)
    assert (engine.gone, launcher._ended) == ({"two"}, {"one"})
    engine.busy.clear()
    launcher._remove_abandoned(engine)
    assert launcher._ended == set()


def test_a_step_does_not_run_beside_one_that_may_still_run() -> None:
    launcher._abandoned.add("three")
    engine: Any = Busy("three")
    with pytest.raises(Error, match="busy"):
        launcher._remove_abandoned(engine)
    assert launcher._abandoned == {"three"}
