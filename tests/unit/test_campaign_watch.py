"""How long the processes of a ship live, by which the campaign chooses its instants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.campaign import disturbance

if TYPE_CHECKING:
    import pytest


def test_the_same_step_of_two_models_lives_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once from the first to the last: then no instant between them would find it alive."""
    watch = disturbance.Watch()
    for elapsed, alive in (
        (1.0, {10: "fetch"}),
        (2.0, {10: "fetch"}),
        (3.0, {11: "serve", 12: "engine"}),
        (9.0, {11: "serve", 12: "engine"}),
        (30.0, {13: "fetch"}),
        (30.5, {13: "fetch"}),
    ):
        monkeypatch.setattr(disturbance, "steps_at_work", lambda root, alive=alive: alive)
        assert watch(1, elapsed) is False
    assert watch.seconds() == {"fetch": 1.0, "serve": 6.0, "engine": 6.0}
    assert (watch.first(), watch.span()) == (1.0, 29.5)
