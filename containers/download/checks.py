"""What must be true of a checkpoint's files before any of them is stored."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from containers.download.selection import INDEX_SUFFIX
from containers.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from containers.download.selection import Selection

_LICENCE: Final = re.compile(r"^license(?:_name)?:\s*[\"']?([\w.+-]+)", re.MULTILINE)


def check_small_files(selection: Selection, folder: Path, source: str) -> None:
    """`config.json` is a JSON object, and every index names only shards that are there; else BadInput.

    `folder` holds the small files under their paths.
    """
    _json_object(folder / "config.json", "config.json", source)
    names = {file.path for file in selection.taken}
    for path in sorted(names):
        if not path.endswith(INDEX_SUFFIX):
            continue
        weights = _json_object(folder / path, path, source).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
            raise BadInput(f"{source}: {path} has no weight_map", remedy="the index is damaged: upload it again")
        beside = path.rpartition("/")[0]
        wanted = {f"{beside}/{shard}".lstrip("/") for shard in weights.values()}
        if missing := sorted(wanted - names):
            raise BadInput(
                f"{source}: {path} names {missing[0]}, which is missing"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                remedy="the upload is incomplete: use another revision, or wait until it is finished",
            )


def licence(folder: Path) -> str | None:
    """The licence that the model card names in its front matter (model card metadata: `license`, `license_name`)."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if not text.startswith("---"):
        return None
    found: list[str] = _LICENCE.findall(text[3:].partition("\n---")[0])
    named = [name for name in found if name != "other"]
    return next(iter(named or found), None)


def _json_object(path: Path, name: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{source}: {name} is not JSON: {error}", remedy="fix the file at its source, or use another revision"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{source}: {name} is not a JSON object", remedy="fix the file, or use another revision")
    return value
