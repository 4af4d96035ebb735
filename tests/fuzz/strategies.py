"""Foreign bytes: honest documents with wrong values in them, and bytes of honest files that were cut, doubled and changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DIGEST = f"sha256:{'0' * 64}"

_ODD_NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**30, 0.5, 1e300, True])
_ODD_TEXTS = st.sampled_from(
    ["", "x", "../x", "/x", "a\nb", "\x1b[2J", "\u202e", DIGEST, "sha256:0", "F32", "BF16", "__metadata__", "9" * 30]
)
SCALARS = st.none() | st.booleans() | _ODD_NUMBERS | _ODD_TEXTS | st.integers() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ODD_TEXTS | st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def spoiled(draw: st.DrawFn, honest: Any) -> Any:
    """The honest value with a few others in it, or without some of its parts."""
    value = json.loads(json.dumps(honest))
    for _ in range(draw(st.integers(0, 3))):
        place, key = value, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
            if key is not None and isinstance(place[key], dict | list) and place[key]:
                place = place[key]
            key = (
                draw(st.sampled_from(sorted(place)))
                if isinstance(place, dict)
                else draw(st.integers(0, len(place) - 1))
            )
        if key is None:
            continue
        if draw(st.booleans()):
            place[key] = draw(VALUES)
        elif isinstance(place, dict):
            place[draw(_ODD_TEXTS)] = place.pop(key)
        else:
            place.append(place[key])
    return value


@st.composite
def damaged(draw: st.DrawFn, honest: st.SearchStrategy[bytes]) -> bytes:
    """Honest bytes, most often with something cut out, put in, repeated or changed."""
    content = bytearray(draw(honest))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        upto = min(len(content), at + draw(st.sampled_from([0, 1, 2, 12, 100, 512])))
        part = bytes(content[at:upto])
        content[at:upto] = draw(
            st.sampled_from([b"", part * 2, part * 20, b"\0" * len(part), b"\xff" * len(part)])
            | st.binary(max_size=8)
            | st.sampled_from([b"NaN", b"1e999", b'"a":1,"a":2,', b"[" * 80, b"\\ud800", b"\xed\xa0\x80", b"9" * 200])
        )
    return bytes(content)


def texts(honest: Any) -> st.SearchStrategy[bytes]:
    """The spoiled and the damaged JSON texts of a value."""
    written = spoiled(honest).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return damaged(written) | damaged(VALUES.map(lambda value: json.dumps(value).encode()))
