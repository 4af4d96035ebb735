r"""Makes text that others wrote fit to be shown: names, server errors, reports, and URLs that hold a secret.

A terminal obeys escape sequences (ECMA-48) and the controls of C1, and shows text after a bidirectional override in another
order (Unicode Standard Annex 9; "Trojan Source", CVE-2021-42574). A log takes whatever follows a line break for an entry of
its own. So no such character leaves Carwright as itself: it is shown as its escape, `\x1b` or `\u202e`.

`Error` and `Event` pass every message through `clean`, the command line passes all that it prints through it as well.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MASK: Final = "***"
# Userinfo of a URL (RFC 3986, 3.2.1). After the scheme nothing but the userinfo can hold an @ before the first slash.
_USERINFO: Final = re.compile(r"(ssh)?://[^\s/?#'\"<>@]*(?:@[^\s/?#'\"<>@]*)*@(?=[^\s@])")
_HEADER: Final = re.compile(r"(?i)\b(basic|bearer) +[a-z0-9+/=._~-]{8,}")  # some servers repeat what they were sent
# Parameters that are a credential by themselves: presigned links of S3, Google and Azure, tokens of registries and hubs.
_PARAMETER: Final = re.compile(
    r"(?i)(?P<name>[?&;#](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid|"
    r"key-pair-id|policy|sig|sign|signature|[a-z_-]*token|[a-z_-]*secret|password|passwd|pwd|api[_-]?key|key|auth|"
    r"authorization|code|credential|_state)=)[^&;\s#'\"<>)]+"
)
# What no message needs: controls, formats (all bidirectional ones are among them), surrogates, line and paragraph separators.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"  # in words of Persian and in emoji; they turn nothing around


def clean(text: str) -> str:
    """`text` for a terminal or a log: no control characters but line breaks and tabs, no secrets in URLs."""
    return _visible(masked(text), keep="\n\t")


def one_line(text: str, limit: int = 300) -> str:
    r"""The same for what is one thing, such as a name or a server's answer: a line break is shown as `\n`, the rest is cut."""
    short = text if len(text) <= limit else f"{text[:limit]}..."
    return _visible(masked(short), keep="")


def masked(text: str) -> str:
    """`text` with `***` for the login in a URL, for signatures and tokens in its query, and for Authorization headers."""
    if "=" in text:
        text = _PARAMETER.sub(rf"\g<name>{MASK}", text)
    text = _HEADER.sub(rf"\1 {MASK}", text)
    return _USERINFO.sub(_login, text) if "://" in text else text


def _login(found: re.Match[str]) -> str:
    """The user of ssh://user@host is no secret; that of any other scheme may be a token."""
    named = found[1] is not None and found[0].count("@") == 1 and found[0].count(":") == 1
    return found[0] if named else f"{found[1] or ''}://{MASK}@"


def code_span(text: str) -> str:
    """`text` as code in a cell of a Markdown table: nothing in it ends the code, the cell or the row."""
    shown = one_line(text, limit=2000).replace("|", "\\|")
    fence = "`"
    while fence in shown:
        fence += "`"
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _visible(text: str, keep: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one in keep or one in _JOINERS or not _is_hidden(one) else _escape(one) for one in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def _escape(character: str) -> str:
    r"""As Python writes it: \n, \x1b, \u202e, \U000e0001."""
    return character.encode("unicode_escape").decode("ascii")
