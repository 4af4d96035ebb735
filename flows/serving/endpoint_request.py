"""Requests to a model's server that somebody else runs: small answers, each on a connection of its own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import httpx

from containers.endpoint_key import authorization
from containers.settings import EvaluateSettings, HttpSettings
from containers.web.exchange import Exchange

if TYPE_CHECKING:
    import ssl

    from containers.web.exchange import HttpLimits
    from containers.web.origins import Origin

_SILENCE: Final = 30.0  # seconds


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates of all authorities takes longer than most answers."""
    return httpx.create_ssl_context(trust_env=False)


def get(
    url: str, origin: Origin, limits: HttpLimits | None, settings: EvaluateSettings | None = None
) -> httpx.Response:
    return send(httpx.Request("GET", url), origin, limits, settings)


def send(
    request: httpx.Request, origin: Origin, limits: HttpLimits | None, settings: EvaluateSettings | None
) -> httpx.Response:
    """The answer, with the key of the settings where it is for this endpoint; no proxy stands before a model's server.

    Raises what httpx and `Exchange.small` raise.
    """
    request.headers["Accept-Encoding"] = "identity"
    request.headers.update(authorization(settings or EvaluateSettings(), str(request.url)))
    with httpx.Client(timeout=_SILENCE, trust_env=False, verify=_tls()) as client:
        found: httpx.Response = Exchange(client, origin, limits or HttpSettings()).small(request)
    return found
