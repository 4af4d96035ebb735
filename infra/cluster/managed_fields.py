"""Whose fields an object has: what server-side apply remembers in `metadata.managedFields`.

The format is FieldsV1 (k8s.io/apimachinery, meta/v1; sigs.k8s.io/structured-merge-diff, fieldpath): a tree whose keys are
`f:NAME`, a field; `k:{...}`, the list item with these keys; `v:VALUE`, an item of a set; and `.`, the thing itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def applied_by(manager: str, value: dict[str, Any]) -> dict[str, Any]:
    """What an object has of the fields that the manager has applied, as a manifest that says just these again."""
    metadata = value["metadata"]
    found: dict[str, Any] = {}
    for entry in metadata.get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            found = _part(value, entry.get("fieldsV1") or {}) if entry.get("fieldsV1") else {}
    return found | _named(value, found.get("metadata") or {})


def _named(value: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    name = {key: value["metadata"][key] for key in ("name", "namespace") if key in value["metadata"]}
    return {"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": metadata | name}


def _part(value: Any, fields: dict[str, Any]) -> Any:
    inner = {key: below for key, below in fields.items() if key != "."}
    if not inner:
        return {} if fields and isinstance(value, dict) else value
    if isinstance(value, dict):
        names = {key.removeprefix("f:"): below for key, below in inner.items() if key.startswith("f:")}
        return {name: _part(value[name], below) for name, below in names.items() if name in value}
    if isinstance(value, list):
        return [part for item in value for part in _item(item, inner)]
    return value


def _item(item: Any, fields: dict[str, Any]) -> Iterator[Any]:
    for key, below in fields.items():
        kind, _, said = key.partition(":")
        if kind == "v" and json.loads(said) == item:
            yield item
        elif kind == "k" and isinstance(item, dict):
            keys = json.loads(said)
            if keys.items() <= item.items():
                yield {**_part(item, below), **keys} if below else item


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field of a manifest that holds no further ones, with its path; a list is one."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key), item


def split(manifest: dict[str, Any], fields: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest without some fields, and those alone. They are named as in a conflict: `.spec.replicas`."""
    rest: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for path, item in leaves(manifest):
        name = "".join(f".{key}" for key in path)
        within = any(field == name or field.startswith((f"{name}.", f"{name}[")) for field in fields)
        _put(taken if within else rest, path, item)
    return rest, taken


def overlay(base: dict[str, Any], source: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """`base` with what `source` has under the paths of `like`."""
    for path, _ in leaves(like):
        found: Any = source
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            _put(base, path, found)
    return base


def _put(value: dict[str, Any], path: tuple[str, ...], item: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
    value[path[-1]] = item
