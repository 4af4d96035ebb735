"""How much of a machine a worker is planned to take, on machines of several sizes."""

from __future__ import annotations

import os

import pytest

from containers.quantize.resources import gpu_memory_needed, lanes_for, memory_needed, threads_for

MIB = 1 << 20


def machine(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))


@pytest.mark.parametrize(
    ("cores", "wanted", "groups", "lanes"),
    [
        (1, 0, 99, 1),
        (2, 0, 99, 2),
        (4, 0, 99, 4),
        (8, 0, 99, 4),
        (12, 0, 99, 6),
        (16, 0, 99, 8),
        (64, 0, 99, 8),
        (64, 0, 3, 3),
        (2, 7, 99, 7),
        (2, 7, 5, 5),
        (2, 0, 0, 1),
    ],
)
def test_groups_in_hand_at_once(
    monkeypatch: pytest.MonkeyPatch, cores: int, wanted: int, groups: int, lanes: int
) -> None:
    """As many as were asked for; else one a core up to four, and half the cores up to eight. Never more than there are."""
    machine(monkeypatch, cores)
    assert lanes_for(wanted, groups) == lanes


@pytest.mark.parametrize(("cores", "lanes", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_cores_are_shared_out_to_the_groups(
    monkeypatch: pytest.MonkeyPatch, cores: int, lanes: int, threads: int
) -> None:
    machine(monkeypatch, cores)
    assert threads_for(lanes) == threads


def test_memory_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 8 cores: in each of 2 groups 4 pieces wait, 8 are in the hands of 4 threads, 1 is read and 8 are hashed, of 8 MiB
    each, and 48 MiB go up; half as much again for the allocator; 480 MiB for Python with torch.
    """
    machine(monkeypatch, 8)
    assert memory_needed(2) == (480 + 2 * (21 * 8 + 48) * 3 // 2) * MIB
    assert gpu_memory_needed(4) == (600 + 4 * 12 * 32) * MIB
