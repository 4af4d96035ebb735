"""Groups side by side on one device: what runs out of GPU memory is done alone, what fails stops the rest."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import pytest

from containers.checkpoint_files import CheckpointFile
from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.parameters import QuantizeOptions
from containers.quantize.groups import Group
from containers.quantize.schemes import scheme_named
from containers.quantize.worker import chosen, run_lanes
from containers.quantize.worker_pool import worker_devices
from containers.store import FileEntry


class OutOfMemoryError(RuntimeError):
    """What a GPU says."""


@dataclass(frozen=True)
class Gpu:
    """A device whose groups need as much memory as their pieces are large."""

    piece: int = 32
    out_of_memory: type[Exception] = OutOfMemoryError

    def free(self):
        """Nothing is kept."""

    def smaller(self):
        return replace(self, piece=self.piece // 2) if self.piece > 1 else None


def group(at: int) -> Group:
    return Group(CheckpointFile(f"model-{at}.safetensors", 100), 8, (), scheme_named("FP8_DYNAMIC"))


def entry(of: Group) -> FileEntry:
    return FileEntry(path=of.path, size=1, sha256=Digest.of(b"x"))


GROUPS = [group(at) for at in range(6)]


def test_groups_that_find_no_memory_together_are_done_alone():
    """The GPU holds 40 units; two groups of 32 do not fit at once, one does, in halves."""
    used, lock, alone = [0], threading.Lock(), []

    def attempt(group, device):
        with lock:
            if used[0] + device.piece > 40:
                raise OutOfMemoryError
            used[0] += device.piece
        alone.append(device.piece)
        time.sleep(0.02)
        with lock:
            used[0] -= device.piece
        return entry(group)

    said: list[str] = []
    done = run_lanes(GROUPS, Gpu(), 3, attempt=attempt, stop=threading.Event(), say=said.append)
    assert done.keys() == {group.path for group in GROUPS}
    assert len(said) == alone.count(16) > 0


def test_pieces_get_smaller_until_they_fit():
    """And if even the smallest do not, that is temporary: somebody else has the GPU."""
    tried = []

    def attempt(group, device):
        tried.append(device.piece)
        if device.piece > limit:
            raise OutOfMemoryError
        return entry(group)

    limit = 4
    run_lanes(GROUPS[:1], Gpu(), 1, attempt=attempt, stop=threading.Event(), say=lambda message: None)
    assert tried == [32, 16, 8, 4]
    limit = 0
    with pytest.raises(Temporary, match="too little free memory"):
        run_lanes(GROUPS[:1], Gpu(), 1, attempt=attempt, stop=threading.Event(), say=lambda message: None)


def test_the_first_error_stops_the_rest_and_is_raised():
    """Groups that have not begun do not begin; those under way are told."""
    stop = threading.Event()
    begun = []

    def attempt(group, device):
        begun.append(group.path)
        if group.path == GROUPS[1].path:
            raise BadInput("the tensor is bad")
        assert stop.wait(10)
        return entry(group)

    with pytest.raises(BadInput, match="the tensor is bad"):
        run_lanes(GROUPS, Gpu(), 2, attempt=attempt, stop=stop, say=lambda message: None)
    assert len(begun) == 2


def test_only_groups_of_the_checkpoint_can_be_dealt():
    """A name that is none of them comes from another plan."""
    assert chosen(GROUPS, [GROUPS[2].path]) == [GROUPS[2]]
    assert chosen(GROUPS, ()) == GROUPS
    with pytest.raises(BadInput, match="has no shard"):
        chosen(GROUPS, ["model-9.safetensors"])


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ({"device": "cpu"}, ["cpu"]),
        ({"device": "cpu", "workers": 3}, ["cpu"] * 3),
        ({"devices": ("cuda:0", "cuda:1")}, ["cuda:0", "cuda:1"]),
        ({"devices": ("cuda:0", "cuda:1"), "workers": 3}, ["cuda:0", "cuda:1", "cuda:0"]),
        ({"devices": ("cuda:1",), "workers": 2}, ["cuda:1", "cuda:1"]),
    ],
)
def test_every_worker_has_its_device(options, devices):
    """Those named in turn, and as many workers as were asked for."""
    assert worker_devices(QuantizeOptions(**options)) == devices
