"""A file of a checkpoint, what it is for by its name (legal text, a pickle, a tool's leftover), and which files an index names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.foreign_json import TENSORS, parse_object

if TYPE_CHECKING:
    from containers.digest import Digest

CONFIG: Final = "config.json"  # every checkpoint in the format of transformers has it
SHARD_SUFFIX: Final = ".safetensors"
INDEX_SUFFIX: Final = ".safetensors.index.json"
PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})

# The spellings that are in use: LICENSE.txt, LICENCE, THIRD_PARTY_NOTICES, Notice, USE_POLICY.md, Acceptable-Use-Policy.
_LICENCE: Final = re.compile(r"(?<![a-z])(licen[cs]e|copying)", re.IGNORECASE)
_LEGAL: Final = re.compile(r"(?<![a-z])(licen[cs]e|copying|notice|use[_-]?policy|acceptable[_-]?use)", re.IGNORECASE)
# What tools leave beside a checkpoint: caches, halves of downloads, copies of editors, settings of desktops.
_LEFTOVER: Final = re.compile(
    r"__pycache__|__MACOSX|Thumbs\.db|desktop\.ini|.+\.(incomplete|part|partial|crdownload|aria2|tmp|temp|swp|swo|bak|orig|lock|log)|.*~",
    re.IGNORECASE,
)
# What holds keys and passwords wherever it lies; most are hidden besides.
_SECRET: Final = re.compile(
    r"\.env(\..+)?|\.netrc|_netrc|\.npmrc|\.pypirc|\.git-credentials|\.htpasswd|\.ssh|\.aws|\.docker|\.kube|"
    r"id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|key|p12|pfx|jks|keystore)",
    re.IGNORECASE,
)
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


def is_hidden(path: str) -> bool:
    """In a hidden folder, or hidden itself."""
    return any(part.startswith(".") and part not in {".", ".."} for part in path.split("/"))


def is_secret(path: str) -> bool:
    """What holds a login, by its own name or that of a folder that it is in."""
    return any(_SECRET.fullmatch(part) for part in path.split("/"))


def never_belongs(path: str) -> bool:
    """Whether a file is no part of any checkpoint, whoever made the folder: it is neither downloaded nor packed."""
    return is_hidden(path) or is_secret(path) or any(_LEFTOVER.fullmatch(part) for part in path.split("/"))


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
