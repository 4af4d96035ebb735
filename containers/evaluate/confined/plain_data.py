"""Values as JSON and back, exactly: what leaves the process of a model's code is data, and comes back as builtin types.

None, booleans, integers of 64 bits, floats, strings and lists are themselves in JSON; every other type is an object with
its name as the one key. A value of a subclass goes as its base class: what a class of the program's own overrides, above
all `__eq__`, stays behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

_JSON_INTEGER: Final = 1 << 63


class NotPlain(TypeError):
    """A value of a type that does not cross the border, or something that is no value."""


def dumps(value: object) -> bytes:
    """One line of JSON. Raises NotPlain, and RecursionError for a value that is nested too deeply or in itself."""
    return json.dumps(_simple(value)).encode() + b"\n"


def loads(line: bytes) -> Any:
    """The value of a line of `dumps`, made of exact builtin types (and Decimal and Fraction).

    Raises NotPlain, ValueError and RecursionError for any other line.
    """
    return _value(json.loads(line))


def _simple(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind, simple in _SIMPLE.items():
        if isinstance(value, kind):
            return simple(value)
    for module, name in (("decimal", "Decimal"), ("fractions", "Fraction")):  # imported only where a program has them
        if type(value).__module__ == module and type(value).__name__ == name:
            return {name: str(value)}
    raise NotPlain(f"a value of type {type(value).__name__} is not plain data")


_SIMPLE: Final[dict[type, Any]] = {
    int: lambda value: _integer(int.__int__(value)),
    float: float.__float__,
    str: str.__str__,
    list: lambda value: [_simple(one) for one in value],
    tuple: lambda value: {"tuple": [_simple(one) for one in value]},
    dict: lambda value: {"dict": [[_simple(key), _simple(one)] for key, one in value.items()]},
    set: lambda value: {"set": [_simple(one) for one in value]},
    frozenset: lambda value: {"frozenset": [_simple(one) for one in value]},
    bytes: lambda value: {"bytes": value.hex()},
    bytearray: lambda value: {"bytearray": value.hex()},
    complex: lambda value: {"complex": [value.real, value.imag]},
    range: lambda value: {"range": [_simple(one) for one in (value.start, value.stop, value.step)]},
    Iterator: lambda value: {"iterator": [_simple(one) for one in value]},
}


def _integer(value: int) -> Any:
    """Longer ones in base 16, which takes linear time and has no limit of digits."""
    return value if -_JSON_INTEGER <= value < _JSON_INTEGER else {"int": hex(value)}


def _value(simple: Any) -> Any:
    if isinstance(simple, list):
        return [_value(one) for one in simple]
    if not isinstance(simple, dict):
        return simple
    if len(simple) != 1:
        raise NotPlain("not a value")
    (name, content), *_ = simple.items()
    if name in ("int", "bytes", "bytearray", "Decimal", "Fraction"):
        if not isinstance(content, str):
            raise NotPlain("not a value")
        return _of_text(name, content)
    if name not in _OF_LIST or not isinstance(content, list):
        raise NotPlain("not a value")
    try:
        return _OF_LIST[name]([_value(one) for one in content])
    except TypeError as error:  # a key that has no hash, a range of strings
        raise NotPlain(f"not a {name}: {error}") from None


_OF_LIST: Final[dict[str, Any]] = {
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
    "complex": lambda parts: complex(*map(float, parts)),
    "range": lambda parts: range(*parts),
}


def _of_text(name: str, text: str) -> Any:
    if name == "int":
        return int(text, 16)
    if name in ("bytes", "bytearray"):
        return (bytes if name == "bytes" else bytearray).fromhex(text)
    if name == "Decimal":
        from decimal import Decimal as Number
    else:
        from fractions import Fraction as Number  # type: ignore[assignment]
    try:
        return Number(text)
    except ArithmeticError as error:
        raise NotPlain(f"not a {name}") from error
