"""The types of settings that a person gives as text: addresses without a login in them, and secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


def _without_login(url: str) -> str:
    """Endpoints are stored with requests and results, and printed; a password in one would be, too."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("the URL holds a login: give it in the settings that are for it")
    return url


EndpointUrl = Annotated[str, AfterValidator(_without_login)]


def _without_line_end(value: Any) -> Any:
    """Secrets come out of files and `$(cat ...)`, with a line break at their end; an empty one is none."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    return text.strip("\r\n") if text.strip() else None


def _fits_in_a_header(value: SecretStr | None) -> SecretStr | None:
    """An HTTP client would repeat what does not, credential and all, in its error."""
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if not _TOKEN.fullmatch(text):
        raise ValueError("holds blanks or letters that no token has: copy it again")
    return SecretStr(text)


Secret = Annotated[SecretStr | None, BeforeValidator(_without_line_end)]
Token = Annotated[Secret, AfterValidator(_fits_in_a_header)]
