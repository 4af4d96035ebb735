"""The Merkle tree of a transparency log, as RFC 6962 (2.1) defines root and inclusion proofs."""

from __future__ import annotations

import hashlib


class MerkleLog:
    """Entries that are only ever added."""

    def __init__(self, entries: list[bytes]) -> None:
        self._leaves = [_leaf(one) for one in entries]

    @property
    def size(self) -> int:
        return len(self._leaves)

    def add(self, entry: bytes) -> int:
        """The index of the new entry."""
        self._leaves.append(_leaf(entry))
        return len(self._leaves) - 1

    def root(self) -> bytes:
        return _root(self._leaves)

    def proof(self, index: int) -> list[bytes]:
        """The hashes that lead from an entry to the root, the nearest first (PATH of the RFC)."""
        return _path(index, self._leaves)


def _leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def _split(size: int) -> int:
    """The largest power of two below the size."""
    return 1 << (size - 1).bit_length() - 1


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    at = _split(len(leaves))
    return hashlib.sha256(b"\1" + _root(leaves[:at]) + _root(leaves[at:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    at = _split(len(leaves))
    if index < at:
        return [*_path(index, leaves[:at]), _root(leaves[at:])]
    return [*_path(index - at, leaves[at:]), _root(leaves[:at])]
