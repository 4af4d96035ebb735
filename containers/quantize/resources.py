"""How much of a machine a worker takes: groups at once, pieces, memory and disk. Known without torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containers.quantize.groups import Group

CPU_PIECE: Final = 8 << 20  # bytes of a weight at a time: small beside a shard, large beside the cost of a call
CUDA_PIECE: Final = 32 << 20
SMALLEST_PIECE: Final = 1 << 20
WAITING: Final = 2  # pieces between two stages of a group
_MOST_LANES: Final = 8  # more shards in flight fill disks and memory
_FEW_LANES: Final = 4  # that even few cores take, to read one shard while another is written

# Bytes of a process that has imported torch and compressed-tensors, before any work; the same with CUDA's context.
_BASE: Final = 480 << 20
_CUDA_BASE: Final = 600 << 20
_SLACK: Final = 1.5  # what the allocator keeps between pieces; measured with `tests.bench.quantize`
_UPLOAD: Final = 3 * (16 << 20)  # parts that the store holds while a shard goes up


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def lanes_for(wanted: int, groups: int) -> int:
    """How many groups to have in hand at once: `wanted`, or as many as the cores can feed; at least one.

    A shard is hashed by three threads (its own digest, and two of what becomes of it), each on a core for itself; on 16
    and on 32 cores 8 lanes took 0.7 to 0.9 times as long as 4.
    """
    most = max(min(_FEW_LANES, cores()), min(_MOST_LANES, cores() // 2))
    return max(1, min(wanted or most, groups))


def largest_first(groups: Sequence[Group]) -> list[Group]:
    """The order in which groups that are all there are begun: those with the most bytes of result first.

    A result is hashed on one core, so a large one that is begun last is waited for while the other cores have nothing to
    do. The output head, which stays as it is, is such a one: it lies in the last shard and does not become smaller.
    """
    return sorted(groups, key=lambda group: (-group.output.size, -group.source.size, group.path))


def threads_for(lanes: int) -> int:
    """How many threads compute for one group on a CPU."""
    return max(1, cores() // lanes)


def disk_needed(groups: Sequence[Group], lanes: int) -> int:
    """Bytes of scratch space at most: the quantized shards in hand."""
    return sum(sorted((group.output.size for group in groups), reverse=True)[:lanes])


def memory_needed(lanes: int) -> int:
    """Bytes of memory at most on a CPU: in each group pieces being read, checked, computed, written and hashed.

    With a GPU the pieces are four times as large.
    """
    pieces = (2 * WAITING + 2 * threads_for(lanes) + 1) * CPU_PIECE
    hashed = 8 * CPU_PIECE
    return _BASE + int(lanes * (pieces + hashed + _UPLOAD) * _SLACK)


def gpu_memory_needed(lanes: int) -> int:
    """Bytes of GPU memory at most: in each group a few pieces with what is computed on the way."""
    return _CUDA_BASE + lanes * 12 * CUDA_PIECE
