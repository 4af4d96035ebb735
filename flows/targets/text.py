"""YAML as people write it."""

from __future__ import annotations

from typing import Any

import yaml as pyyaml


class _Dumper(pyyaml.SafeDumper):
    """Lists are indented under their key, and no value is an anchor to another."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml(*documents: dict[str, Any]) -> str:
    """The documents, in the order of their keys, with `---` between them."""
    return "---\n".join(
        pyyaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for one in documents
    )
