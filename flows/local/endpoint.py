"""Finds the model at an endpoint that Carwright did not start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from containers.contract import Endpoint
from containers.errors import BadInput, NotReady
from containers.foreign_text import one_line
from containers.settings import HttpSettings
from containers.web.exchange import Exchange
from containers.web.origins import Origin

if TYPE_CHECKING:
    from containers.web.exchange import HttpLimits

_SILENCE = 30.0  # seconds
_BASE = "give the base URL, such as http://HOST:8000/v1"


def find(url: str, limits: HttpLimits | None = None) -> Endpoint:
    """The endpoint at a URL: the model named after a `#`, or the only one that it lists. `limits`: unset, the settings' defaults.

    Raises NotReady if nothing answers or the server is busy or failing, and BadInput for everything else.
    """
    base, _, name = url.partition("#")
    base = base.rstrip("/")
    try:
        origin = Origin.of(base)
    except BadInput as error:
        raise BadInput(f"not an endpoint: {error.message}", remedy=_BASE) from error
    try:
        with httpx.Client(timeout=_SILENCE, trust_env=False, headers={"Accept-Encoding": "identity"}) as client:
            request = client.build_request("GET", f"{base}/models")
            answer: httpx.Response = Exchange(client, origin, limits or HttpSettings()).small(request)
    except httpx.InvalidURL as error:
        raise BadInput(f"not an endpoint: {base!r}", remedy=_BASE) from error
    except httpx.HTTPError as error:
        raise NotReady(
            f"{base}/models does not answer: {error}", remedy="start the server, or check the address"
        ) from error
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise NotReady(f"{base}/models answered with status {answer.status_code}", remedy="see the server's log")
    try:
        models = [str(one["id"]) for one in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"{base} is not an OpenAI-compatible endpoint: {base}/models answered with status {answer.status_code} and no "
            "list of models",
            remedy=_BASE,
        ) from error
    if not models:
        raise BadInput(f"{base} serves no model", remedy="see the server's log")
    listed, first = one_line(", ".join(models)), one_line(models[0])
    if name and name not in models:
        raise BadInput(f"{base} serves {listed}, not {name!r}", remedy=f"give {base}#{first}")
    if not name and len(models) > 1:
        raise BadInput(f"{base} serves {listed}", remedy=f"name one of them: {base}#{first}")
    return Endpoint(url=base, served_model_name=name or models[0], server=f"the endpoint {base}")
