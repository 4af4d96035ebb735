"""YAML that is data: no tags, so nothing in it is a function or an object, and no more of it than a person writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST: Final = 250_000  # characters
_MOST: Final = 200_000  # values, each alias counted as what it stands for
_DEEPEST: Final = 50
_PLAIN: Final = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in (
        "null",
        "bool",
        "int",
        "float",
        "str",
        "timestamp",
        "map",
        "seq",
        "merge",
        "value",
        "set",
        "omap",
        "binary",
    )
)


def load_yaml(text: str, what: str, *, once: bool = False) -> Any:
    """The data of a YAML text; raises BadInput, which names the text as `what` and the field, for anything else.

    Refused are: no YAML, tags that stand for code or objects (`!function`), and a text that is too long, too deep or, by
    aliases, too large. With `once` also a field that is in one mapping twice, of which YAML's readers take the last.
    """
    if len(text) > _LONGEST:
        raise BadInput(f"{what} has more than {_LONGEST} characters", remedy="move data out of it")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _check(node, what, once=once)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        where = f"line {at.line + 1}, column {at.column + 1}: {getattr(error, 'problem', '')}" if at else str(error)
        raise BadInput(f"{what} is not YAML: {where}", remedy="correct the YAML") from error
    except ValueError as error:  # a date or a number that there is not
        raise BadInput(f"{what} is not YAML: {error}", remedy="correct the YAML") from error
    except RecursionError:
        raise _too_deep(what) from None


def _check(root: yaml.Node, what: str, *, once: bool) -> None:
    """Raises BadInput for a tag, for what is too deep or too large, and with `once` for a field that is there twice."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, field: str, depth: int) -> int:
        if depth > _DEEPEST:
            raise _too_deep(what)
        if node.tag not in _PLAIN:
            raise BadInput(
                f"{what}, line {node.start_mark.line + 1}: {field or 'the file'} has the tag {node.tag}, and tags stand "
                "for code",
                remedy="write the value itself: text, a number, a list or a mapping",
            )
        if once and isinstance(node, yaml.MappingNode):
            _check_once(node, what)
        if id(node) not in sizes:
            sizes[id(node)] = _MOST  # as large when it is met inside itself
            sizes[id(node)] = 1 + sum(size(one, name, depth + 1) for one, name in _inside(node, field))
        return sizes[id(node)]

    if size(root, "", 0) > _MOST:
        raise BadInput(f"{what} stands for more than {_MOST} values", remedy="use fewer aliases")


def _check_once(node: yaml.MappingNode, what: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise BadInput(
                f"{what}, line {key.start_mark.line + 1}: {name} is there twice",
                remedy="keep one of them: only the last would count",
            )
        seen.add(name)


def _inside(node: yaml.Node, field: str) -> Iterator[tuple[yaml.Node, str]]:
    """The nodes of a list or a mapping, each with the name of its field."""
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield one, f"{field}[{number}]"
    elif isinstance(node, yaml.MappingNode):
        for key, one in node.value:
            name = f"{field}.{key.value}" if field else str(key.value)
            yield key, name
            yield one, name


def _too_deep(what: str) -> BadInput:
    return BadInput(f"{what} has values more than {_DEEPEST} levels deep", remedy="write it flatter")
