"""A file of a checkpoint, what it is for by its name (legal text, or a pickle), and which files an index names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.foreign_json import TENSORS, parse_object

if TYPE_CHECKING:
    from containers.digest import Digest

PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})

# The spellings that are in use: LICENSE.txt, LICENCE, THIRD_PARTY_NOTICES, Notice, USE_POLICY.md, Acceptable-Use-Policy.
_LICENCE: Final = re.compile(r"(?<![a-z])(licen[cs]e|copying)", re.IGNORECASE)
_LEGAL: Final = re.compile(r"(?<![a-z])(licen[cs]e|copying|notice|use[_-]?policy|acceptable[_-]?use)", re.IGNORECASE)
_TEXT: Final = frozenset({"", ".txt", ".md", ".pdf", ".rst"})


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """Its digest, and that of its one-file layer of an image, are there where they are known without reading it."""

    path: str
    size: int
    sha256: Digest | None = None
    layer: Digest | None = None


def is_legal(path: str) -> bool:
    """A licence, a notice or a use policy: what must travel with the weights."""
    return _names(_LEGAL, path)


def is_licence(path: str) -> bool:
    """The licence itself."""
    return _names(_LICENCE, path)


def is_pickle(path: str) -> bool:
    """A format that can run code when it is read."""
    return PurePosixPath(path.lower()).suffix in PICKLE_SUFFIXES


def weight_map(content: bytes, what: str) -> dict[str, str]:
    """The shard of every tensor by an index of safetensors files; raises BadInput, naming it `what`, for another text."""
    remedy = "the index is damaged: upload or fetch it again"
    mapped = parse_object(content, what, TENSORS, remedy=remedy).get("weight_map")
    if not isinstance(mapped, dict) or not all(isinstance(shard, str) for shard in mapped.values()):
        raise BadInput(f"{what} has no weight_map", remedy=remedy)
    return mapped


def _names(words: re.Pattern[str], path: str) -> bool:
    name = PurePosixPath(path).name
    return words.search(name) is not None and PurePosixPath(name.lower()).suffix in _TEXT
