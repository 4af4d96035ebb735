"""Text from outside (names of files and tensors, values of config.json), made fit for messages and for Markdown."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_LONGEST: Final = 120  # characters of a name in a message
_LONGEST_TEXT: Final = 1000  # characters of a value in a document
# Control characters, formats (which write from right to left, or nothing at all), surrogates, private and unknown ones,
# and separators of lines.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# What Markdown, its dialects on the hubs or HTML take for more than text: code, links, pictures, tags, cells, escapes,
# formulas and entities anywhere, and what starts a block; and addresses, which become links by themselves.
_MARKUP: Final = re.compile(r"[`\[\]<>|\\$]|&[#\w]+;|^[#+*=~-]|^\d+[.)](\s|$)")
_ADDRESS: Final = re.compile(r"(https?|ftp|mailto|xmpp):|www\.", re.IGNORECASE)


def shown(text: str) -> str:
    """A name in a message: as it is, or, where it is long or not printable, escaped and cut."""
    if text.isprintable() and len(text) <= _LONGEST:
        return text
    cut = ascii(text[:_LONGEST])
    return cut if len(text) <= _LONGEST else f"{cut} (and {len(text) - _LONGEST} more characters)"


def visible_line(value: object) -> str:
    """A value as one line of visible text; what cannot be seen becomes a replacement character."""
    text = " ".join(str(value)[:_LONGEST_TEXT].split())
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in _INVISIBLE else letter for letter in text
    )


def code(value: object) -> str:
    """A value as Markdown's code, in which nothing means anything outside of tables. No value ends it."""
    return "`" + visible_line(value).replace("`", "'") + "`"


def markdown(value: object, *, addresses: bool = False) -> str:
    """A value as one line of Markdown that means itself alone: no link, picture, HTML, cell of a table, list or code block.

    Plain text stays as it is, so that documents about honest models do not change; what could mean more is set as code, and
    a bar, which would end a cell even there, becomes a broken one.
    `addresses`: those may become links, since the value is from the person whose document this is.
    """
    text = visible_line(value)
    return (
        code(text.replace("|", "\N{BROKEN BAR}"))
        if _MARKUP.search(text) or (not addresses and _ADDRESS.search(text))
        else text
    )
