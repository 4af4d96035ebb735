"""What must be true of a checkpoint's files before any of them is stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import weight_map
from containers.checkpoint_parts import INDEX_SUFFIX
from containers.errors import BadInput
from containers.foreign_json import CONFIGURATION, TENSORS, parse_object, read_at_most
from containers.foreign_values import shown
from containers.git_lfs import POINTER_MAX, is_lfs_pointer, lfs_pointer

if TYPE_CHECKING:
    from pathlib import Path

    from containers.download.selection import Selection
    from containers.foreign_json import Limits

_FRONT: Final = 1 << 20  # bytes of a model card that may be its front matter
# Several: `license: [mit, apache-2.0]`, or an item in each of the lines that follow.
_LICENCES: Final = re.compile(r"^license:[ \t]*(\[[^\]\n]{1,1000}\]|(?:\n[ \t]*- [^\n]{1,100}){1,16})", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")
_LICENCE: Final = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([\w.+-]{1,100})", re.MULTILINE)


def check_small_files(selection: Selection, folder: Path, source: str) -> None:
    """`config.json` is a JSON object, every index names only shards that are there, and no file is a pointer; else BadInput.

    `folder` holds the small files under their paths.
    """
    for file in selection.taken:
        if file.size <= POINTER_MAX and (folder / file.path).is_file():
            with (folder / file.path).open("rb") as stream:
                if is_lfs_pointer(stream.read(POINTER_MAX)):
                    raise lfs_pointer(f"{source}: {file.path}")
    remedy = "fix the file at its source, or use another revision"
    parse_object(_read(folder / "config.json", CONFIGURATION), f"{source}: config.json", CONFIGURATION, remedy=remedy)
    names = {file.path for file in selection.taken}
    for path in sorted(names):
        if not path.endswith(INDEX_SUFFIX):
            continue
        weights = weight_map(_read(folder / path, TENSORS), f"{source}: {path}")
        beside = path.rpartition("/")[0]
        wanted = {f"{beside}/{shard}".lstrip("/") for shard in weights.values()}
        if missing := sorted(wanted - names):
            raise BadInput(
                f"{source}: {path} names {shown(missing[0])}, which is missing"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                remedy="the upload is incomplete: use another revision, or wait until it is finished",
            )


def licence(folder: Path) -> str | list[str] | None:
    """The licence that the model card names in its front matter (model card metadata: `license`, `license_name`), or several."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_FRONT).decode(errors="replace")
    except FileNotFoundError:
        return None
    if not text.startswith("---"):
        return None
    front = text[3:].partition("\n---")[0]
    several = _LICENCES.search(front)
    parts = re.split(r"[,\n]", several[1]) if several else []
    listed = list(dict.fromkeys(name[0] for part in parts if (name := _NAME.search(part))))
    if len(listed) > 1:
        return listed
    found: list[str] = _LICENCE.findall(front) or listed
    named = [name for name in found if name != "other"]
    return next(iter(named or found), None)


def _read(path: Path, limits: Limits) -> bytes:
    with path.open("rb") as file:
        return read_at_most(limits, file.read)
