"""Models served by somebody else: found at their URL, and used for as long as they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from containers.contract import Endpoint
from containers.endpoint_key import REFUSED, authorization, needs_key
from containers.errors import BadInput, Error, NotReady
from containers.foreign_text import one_line
from containers.settings import EvaluateSettings, HttpSettings
from containers.web.exchange import Exchange
from containers.web.origins import Origin

if TYPE_CHECKING:
    from containers.web.exchange import HttpLimits

_SILENCE = 30.0  # seconds
_BASE = "give the base URL, such as http://HOST:8000/v1"


def find(url: str, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None) -> Endpoint:
    """The endpoint at a URL: the model named after a `#`, or the only one that it lists. Unset: the settings' defaults.

    Raises NotReady if nothing answers or the server is busy or failing, and BadInput for everything else.
    """
    base, _, name = url.partition("#")
    base = base.rstrip("/")
    try:
        origin = Origin.of(base)
    except BadInput as error:
        raise BadInput(f"not an endpoint: {error.message}", remedy=_BASE) from error
    try:
        answer = _get(f"{base}/models", origin, limits, settings)
    except httpx.InvalidURL as error:
        raise BadInput(f"not an endpoint: {base!r}", remedy=_BASE) from error
    except httpx.HTTPError as error:
        raise NotReady(
            f"{base}/models does not answer: {error}", remedy="start the server, or check the address"
        ) from error
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise NotReady(f"{base}/models answered with status {answer.status_code}", remedy="see the server's log")
    if answer.status_code in REFUSED:
        raise needs_key(base, answer.status_code)
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


@dataclass(frozen=True)
class ForeignServer:
    """A `flows.runners.service.Lease` on a server that Carwright neither starts nor stops."""

    endpoint: Endpoint
    found: bool = True

    @property
    def serves(self) -> bool:
        return True

    def why_ended(self) -> Error | None:
        """Nothing is known of it."""
        return None

    def end(self) -> None:
        """Leave it as it is."""

    def keep(self) -> None:
        """Leave it as it is."""


def vllm_version(url: str, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None) -> str:
    """The version that the vLLM behind a base URL says it is; raises BadInput for a server that does not say."""
    try:
        answer = _get(f"{url.removesuffix('/v1')}/version", Origin.of(url), limits, settings)
        found = answer.json()["version"] if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not re.fullmatch(r"[\w.+!-]{1,64}", found):
        raise BadInput(
            f"{url} does not say which vLLM it is",
            remedy="models are measured by vLLM, whose /version must be reachable",
        )
    return found


def check_same(versions: dict[str, str]) -> None:
    """Raises BadInput when the servers of two roles are of different versions: that alone changes answers."""
    if len(set(versions.values())) > 1:
        told = ", ".join(f"the {role} by vLLM {version}" for role, version in versions.items())
        raise BadInput(
            f"the models would be measured by different servers: {told}",
            remedy="serve both by the same version, or leave both to Carwright",
        )


def _get(url: str, origin: Origin, limits: HttpLimits | None, settings: EvaluateSettings | None) -> httpx.Response:
    """A small answer of a model's server; no proxy stands before it."""
    headers = {"Accept-Encoding": "identity", **authorization(settings or EvaluateSettings(), url)}
    with httpx.Client(timeout=_SILENCE, trust_env=False, headers=headers) as client:
        answer: httpx.Response = Exchange(client, origin, limits or HttpSettings()).small(
            client.build_request("GET", url)
        )
    return answer
