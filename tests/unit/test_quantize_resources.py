"""How much of a machine a worker is planned to take, on machines of several sizes."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from containers.contract import Step
from containers.parameters import QuantizeOptions
from containers.quantize import work
from containers.quantize.resources import gpu_memory_needed, lanes_for, largest_first, memory_needed, threads_for

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


def of_size(path: str, output: int) -> Any:
    return SimpleNamespace(path=path, output=SimpleNamespace(size=output), source=SimpleNamespace(size=2 * output))


def test_the_shard_that_takes_longest_is_begun_first() -> None:
    """The last one here holds an output head, which stays as it is: begun last, it would be waited for alone."""
    groups = [of_size("1", 5), of_size("2", 4), of_size("3", 4), of_size("4", 12)]
    assert [one.path for one in largest_first(groups)] == ["4", "1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "begun"),
    [
        ({"device": "cpu"}, ["3", "1", "2"]),
        ({"device": "cpu", "lanes": 1}, ["1", "2", "3"]),
        ({"device": "cpu", "groups": ["1", "2", "3"]}, ["1", "2", "3"]),
    ],
)
def test_what_is_dealt_or_done_one_by_one_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], begun: list[str]
) -> None:
    """The end of a dealt list may be dealt to another worker, which would find that a large one there has been begun."""
    machine(monkeypatch, 16)
    order: list[str] = []
    monkeypatch.setattr(work, "quantize_groups", lambda *given: order.extend(one.path for one in given[-1]))
    request: Any = SimpleNamespace(step=Step.QUANTIZE, options=QuantizeOptions.model_validate(options).dump())
    nothing: Any = None
    work._quantize_missing([of_size("1", 2), of_size("2", 1), of_size("3", 9)], request, nothing, nothing, nothing)
    assert order == begun
