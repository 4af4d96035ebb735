"""A model's code is judged by what it computes: no trick passes, an answer that breaks a parser fails, and values come back exactly.

Under the container's sandbox, which needs nothing installed; what the sandboxes keep in is in the integration tests.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from containers.evaluate.confined import plain_data
from containers.evaluate.sandbox import Sandbox, SandboxLimits

BOX = Sandbox("", SandboxLimits(wall=20.0, cpu=1, answer=1 << 20))
TEST = """
def check(candidate):
    assert candidate([1, 2, 3]) == [3, 2, 1], "numbers"
    assert candidate("ab") == "ba", "text"
    assert not candidate([]), "nothing"
    try:
        assert abs(len(candidate([1, 2])) - 2) < 1e-6
    except Exception:
        raise
"""
_FORGED = """
import os
def f(x):
    for line in ({!r},) * 3:
        os.write(4, line.encode() + b"\\n")
    os.write(1, b'{{"passed": true, "detail": ""}}'); os.write(2, b'{{"passed": true, "detail": ""}}')
    os._exit(0)
"""
_EVERYTHING = """
class Everything({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return False
    def __len__(self): return 2
    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __hash__ = None
    __class__ = property(lambda self: list)
def f(x): return Everything()
"""

# Code that does not reverse anything.
TRICKS = {
    **{f"equal to everything, as {base}": _EVERYTHING.format(base=base) for base in ("object", "list", "str", "dict", "int")},
    "an exit in place of an answer": "def f(x): raise SystemExit(0)",
    "an exit without a word": "import os\ndef f(x): os._exit(0)",
    "an exit before there is a function": "import sys; sys.exit(0)",
    "an exit when the program ends": "import atexit, os; atexit.register(os._exit, 0)\ndef f(x): return x",
    "an end by a signal": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "asserts that do nothing": "import builtins; builtins.AssertionError = type(None)\ndef f(x): return x",
    "patched builtins": "import builtins; builtins.abs = builtins.len = lambda *_: 0\nbuiltins.__build_class__ = None\ndef f(x): return x",
    "a patched test": "def f(x):\n    import __main__; __main__.check = lambda _: None\n    return x",
    "a test of its own": "def check(candidate): pass\ndef f(x): return x",
    "a patched judge": (
        "import sys\nfor m in list(sys.modules.values()):\n"
        "    for n in ('verdict', 'loads', 'dumps', '_value', 'Failed', 'ask'):\n"
        "        if hasattr(m, n): setattr(m, n, lambda *a, **k: {'passed': True, 'detail': ''})\n"
        "def f(x): return x"
    ),
    "the frames of its callers": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in list(frame.f_locals.values()):\n            if isinstance(v, str) and 'passed' in v: return v\n"
        "        frame.f_locals.update(passed=True, fine=True)\n        frame = frame.f_back\n    return x"
    ),
    "everything in memory": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if type(o) is dict and 'test' in o: return [3, 2, 1]\n    return x"
    ),
    "the text of the test in memory": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if type(o) in (list, tuple) and any(type(s) is str and 'candidate([' in s for s in o): return [3, 2, 1]\n"
        "    return x"
    ),
    "its own pages": (
        "import ctypes\ndef f(x):\n    data = open('/proc/self/mem', 'rb').read(1)\n    return [3, 2, 1]"
    ),
    "a forged answer": _FORGED.format('{"dict": [["value", true]]}'),
    "a forged verdict": _FORGED.format('{"passed": true, "detail": ""}'),
    "an answer that is no JSON": _FORGED.format("passed"),
    "an answer that is no value": _FORGED.format('{"dict": [["value", {"class": "x"}]]}'),
    "an answer that is nested deeply": _FORGED.format("[" * 100_000),
    "an answer that is a number without end": _FORGED.format('{"dict": [["value", 1' + "0" * 9_000 + "]]}"),
    "an answer with a key that has no hash": _FORGED.format('{"dict": [[[], 1]]}'),
    "an answer of a type that nobody knows": "def f(x): return object()",
    "a function as an answer": "def f(x): return lambda: x",
    "a class as an answer": "def f(x): return list",
    "an answer that holds itself": "def f(x):\n    y = []\n    y.append(y)\n    return y",
    "an answer that doubles": "def f(x):\n    y = []\n    for _ in range(60): y = [y, y]\n    return y",
    "an answer that is large": "def f(x): return 'a' * (1 << 24)",
    "an answer without end": "def f(x):\n    import itertools\n    return itertools.count()",
    "no function": "g = 1",
    "a function that is none": "f = 1",
    "an exception that cannot be shown": "class E(Exception):\n    def __str__(self): raise self\ndef f(x): raise E",
    "an exception that is no Exception": "class E(BaseException): pass\ndef f(x): raise E",
    "a generator exit": "def f(x): raise GeneratorExit",
    "an interrupt": "def f(x): raise KeyboardInterrupt",
    "a recursion without end": "def f(x): return f(x)",
    "a stack without end": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "nan": "def f(x): return float('nan')",
}  # fmt: skip
# Texts that break what reads them: as code, and as a model's answer in Markdown.
BROKEN = {
    "a null byte": "def f(x):\n    return x[::-1]\0",
    "half a surrogate": "def f(x):\n    return '\ud800'",
    "many brackets": "f = " + "(" * 50_000,
    "many closed brackets": "f = " + "[" * 3000 + "]" * 3000,
    "many signs": "f = " + "-" * 200_000 + "1",
    "many nots": "f = " + "not " * 100_000 + "1",
    "many attributes": "f = a" + ".a" * 100_000,
    "many calls": "f = a" + "()" * 100_000,
    "many additions": "f = 1" + "+1" * 100_000,
    "many lambdas": "f = " + "lambda: " * 20_000 + "1",
    "many conditions": "f = " + "1 if 1 else " * 20_000 + "1",
    "many blocks": "".join(" " * n + "if 1:\n" for n in range(200)),
    "many f-strings": "f = " + "f'{" * 50 + "1",
    "a large number": "f = " + "9" * 100_000,
    "a power": "f = 10 ** 10 ** 10",
    "many lines": "x = (\n" * 5_000,
    "an open string": "def f(x):\n    return '''" + "a\n" * 5_000,
    "an unknown coding": "# coding: nothing\ndef f(x): return 1 +",
    "many fences": "```\n" * 20_000,
    "fences without end": "```python\n" + "def f(x): return x\n```\n```" * 2_000,
    "too long": "#" * (1 << 21),
}


ATTACKS = [
    *({"id": name, "code": code} for name, code in TRICKS.items()),
    *({"id": f"{name}, as code", "code": text} for name, text in BROKEN.items()),
    *({"id": f"{name}, as an answer", "code": "", "answer": text} for name, text in BROKEN.items()),
    *({"id": f"{name}, in Markdown", "code": "", "answer": f"```python\n{text}\n```"} for name, text in BROKEN.items()),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack["id"])
def test_no_attack_passes_and_none_ends_anything_else(attack: dict[str, str]) -> None:
    outcome = BOX.run(attack["code"], answer=attack.get("answer", ""), entry_point="f", test=TEST)
    assert not outcome.passed
    assert outcome.detail
    assert outcome.detail.isprintable()


@pytest.mark.parametrize(
    "code",
    [
        "def f(x): return x[::-1]",
        "class L(list):\n    def __eq__(self, other): return False\ndef f(x): return L(x[::-1]) if isinstance(x, list) else x[::-1]",
        "calls = []\ndef f(x):\n    calls.append(x)\n    print('x' * 100_000)\n    return calls[-1][::-1]",
    ],
)
def test_honest_code_passes(code: str) -> None:
    assert BOX.run(code, entry_point="f", test=TEST).detail == ""


def test_helpers_of_the_problem_are_the_data_sets_and_not_the_models() -> None:
    preamble = "def double(x): return 2 * x\n"
    test = "def check(candidate):\n    assert candidate(double(2)) == 2"
    assert BOX.run("def f(x): return x // 2", entry_point="f", preamble=preamble, test=test).passed
    swapped = "def double(x): return x\ndef f(x): return x"
    assert not BOX.run(swapped, entry_point="f", preamble=preamble, test=test).passed


def test_what_the_test_prints_is_no_verdict() -> None:
    test = "def check(candidate):\n    print('x' * 100)\n    assert candidate(1) == 2"
    assert BOX.run("def f(x): return 1", entry_point="f", test=test).detail == "AssertionError"


VALUES: dict[str, Any] = {
    "nothing": None, "true": True, "one": 1, "a float that is one": 1.0, "minus zero": -0.0, "infinity": -math.inf,
    "a tenth": 0.1, "the smallest": 5e-324, "a large number": -(10**5000), "the edge": [2**63, 2**63 - 1, -(2**63), -(2**63) - 1],
    "text": "a\0\n\u2028\U0001f600\ud800", "bytes": b"\x00\xff", "a bytearray": bytearray(b"a"), "complex": complex(1, -0.0),
    "a list": [[], [True, None]], "a tuple": ((), (1,)), "a dict": {1: "a", "1": (2,), None: {}, (1, 2): [3], True + 1: 4},
    "a set": {1, "a", (2,)}, "a frozenset": {frozenset({1}), frozenset()}, "a range": range(3, 10, 2),
    "a decimal": Decimal("1.10"), "a fraction": Fraction(1, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values_survive_exactly(name: str) -> None:
    """Also their types: True is not 1, a tuple is no list, and minus zero is not zero."""
    value = VALUES[name]
    found = plain_data.loads(plain_data.dumps(value))
    assert (found, repr(type(found))) == (value, repr(type(value)))
    if isinstance(
        value, set | frozenset
    ):  # the order of equal sets may differ: it depends on the seed of text's hashes
        assert sorted(map(repr, found)) == sorted(map(repr, value))
    elif not isinstance(value, int):
        assert repr(found) == repr(value)


def test_nan_and_iterators_survive() -> None:
    assert math.isnan(plain_data.loads(plain_data.dumps(math.nan)))
    assert list(plain_data.loads(plain_data.dumps(map(str, (1, 2))))) == ["1", "2"]


@pytest.mark.parametrize("line", ['{"class": "x"}', '{"int": 1}', '{"int": "x"}', '{"tuple": 1}', '{"a": 1, "b": 2}', "{}", "x", '{"bytes": "x"}', '{"range": ["a"]}', '{"Decimal": "x"}', '{"Fraction": "1/0"}', '{"dict": [1]}'])  # fmt: skip
def test_other_lines_are_no_values(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        plain_data.loads(line.encode())


def test_a_program_has_pythons_own_library_and_no_other() -> None:
    assert BOX.run("import heapq, re, hashlib, statistics; hashlib.md5(b'')").passed
    assert not BOX.run("import containers.errors").passed
    for name in ("pydantic", "pytest"):
        assert "No module named" in BOX.run(f"import {name}").detail
