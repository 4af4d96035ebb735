"""Which files of a source make the checkpoint, and why the others are left: safetensors only, and no code."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import CONFIG, is_hidden
from containers.checkpoint_parts import PICKLES, why_left
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containers.digest import Digest

# Either of these is a whole tokenizer.
_TOKENIZERS: Final = (
    {"tokenizer.json"},
    {"tokenizer.model"},
    {"spiece.model"},
    {"sentencepiece.bpe.model"},
    {"vocab.json", "merges.txt"},
    {"vocab.txt"},
    {"tekken.json"},
)


@dataclass(frozen=True, order=True)
class Remote:
    """A file of a source. `size` in bytes; `sha256` where the source tells it, `git` (sha1 of git's blob) where not.

    `mark` is what the source says of its state (an ETag, a time of modification), part of a listing's digest.
    """

    path: str
    size: int
    sha256: Digest | None = None
    git: str | None = None
    mark: str = ""

    @property
    def weights(self) -> bool:
        return self.path.endswith(".safetensors")


@dataclass(frozen=True)
class Selection:
    """`taken` is sorted by path; `skipped` says of each other file why, in the words of a sentence."""

    taken: tuple[Remote, ...]
    skipped: tuple[tuple[Remote, str], ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.taken)


def select(files: Iterable[Remote], source: str) -> Selection:
    """Choose; raises BadInput when what is left is no checkpoint: no config, no safetensors, no tokenizer."""
    taken: list[Remote] = []
    skipped: list[tuple[Remote, str]] = []
    listed = sorted(files, key=lambda file: file.path)
    names = {file.path for file in listed}
    if len(names) < len(listed):
        twice = next(one.path for one, other in pairwise(listed) if one.path == other.path)
        raise BadInput(f"{source} lists {twice!r} twice", remedy="the source is damaged or hostile")
    for file in listed:
        why = why_left(file.path, names)
        if why is None:
            _plain(file.path, source)
            taken.append(file)
        elif not is_hidden(file.path):
            skipped.append((file, why))
    selection = Selection(tuple(taken), tuple(skipped))
    _check(selection, source)
    return selection


def _plain(path: str, source: str) -> None:
    """A path is joined to folders later: refuse what could lead out of them."""
    if any(part in {"", ".", ".."} for part in path.split("/")) or "\\" in path or not path.isprintable():
        raise BadInput(f"{source} has a file with the name {path!r}", remedy="rename it there, or take it out")


def _check(selection: Selection, source: str) -> None:
    names = {file.path for file in selection.taken}
    pickles = [file.path for file, why in selection.skipped if why == PICKLES]
    weights = any(file.weights for file in selection.taken)
    if not weights and pickles:
        raise BadInput(
            f"{source} has its weights only as pickles ({_some(pickles)}), and reading a pickle can run code",
            remedy="ask for a revision with safetensors (often refs/pr/N), or convert it yourself and use file:///",
        )
    if not weights:
        raise BadInput(f"{source} has no safetensors files", remedy="give a source with a checkpoint in safetensors")
    if CONFIG not in names:
        raise BadInput(
            f"{source} has no config.json",
            remedy="give a checkpoint in Hugging Face layout: config.json, tokenizer and weights in one folder",
        )
    if not any(parts <= names for parts in _TOKENIZERS) and not any(
        name.endswith(".tiktoken") and "/" not in name for name in names
    ):
        raise BadInput(
            f"{source} has no tokenizer",
            remedy="add the tokenizer's files (tokenizer.json, or tokenizer.model) to the checkpoint",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
