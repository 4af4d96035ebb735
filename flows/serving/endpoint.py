"""Models served by somebody else: found at their URL, and used for as long as they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from containers.endpoint_key import REFUSED, needs_key
from containers.errors import BadInput, Error, NotReady
from containers.foreign_text import one_line
from containers.parameters import Endpoint
from containers.web.origins import Origin
from flows.serving.endpoint_request import get, send

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.settings import EvaluateSettings
    from containers.web.exchange import HttpLimits

_BEYOND = 4096  # tokens that a tokenizer may have beyond its model: placeholders of images, mostly
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
        answer = get(f"{base}/models", origin, limits, settings)
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
        """Whether anything takes connections there; of more nothing is known."""
        try:
            get(f"{self.endpoint.url}/models", Origin.of(self.endpoint.url), None)
        except httpx.ConnectError:
            return False
        except (httpx.HTTPError, Error):
            return True
        return True

    def why_ended(self) -> Error | None:
        if self.serves:
            return None
        return NotReady(
            f"the server at {self.endpoint.url} has ended while it was measured",
            remedy="see its own log, start it and run the same command again: everything but this measurement is reused",
        )

    def end(self) -> None:
        """Leave it as it is."""

    def keep(self) -> None:
        """Leave it as it is."""


def vllm_version(url: str, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None) -> str:
    """The version that the vLLM behind a base URL says it is; raises BadInput for a server that does not say."""
    try:
        answer = get(f"{url.removesuffix('/v1')}/version", Origin.of(url), limits, settings)
        found = answer.json()["version"] if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not re.fullmatch(r"[\w.+!-]{1,64}", found):
        raise BadInput(
            f"{url} does not say which vLLM it is",
            remedy="models are measured by vLLM, whose /version must be reachable",
        )
    return found


def check_version(
    endpoint: Endpoint, server: str, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None
) -> None:
    """Raises BadInput when another vLLM answers there than the one that `server`, the name of a measurement, begins with."""
    now = vllm_version(endpoint.url, limits, settings)
    if not f"{server} ".startswith(f"vllm {now} "):
        raise BadInput(
            f"{endpoint.url} is served by vLLM {now}, and was not when the run began: {server}",
            remedy="leave the server as it is until the run has ended, and run again",
        )


def check_model(
    endpoint: Endpoint,
    length: int,
    vocabulary: int,
    limits: HttpLimits | None = None,
    settings: EvaluateSettings | None = None,
) -> None:
    """Raises BadInput for an endpoint that serves another model for certain: its context is shorter than `length` tokens, or its
    vocabulary is not the one with `vocabulary` entries (0: not known), and NotReady for one that does not answer.

    vLLM takes a prompt of token ids, and refuses with status 400 those that neither its model nor its tokenizer has.
    """
    base, origin = endpoint.url, Origin.of(endpoint.url)

    def takes(token: int) -> bool:
        body = {"model": endpoint.served_model_name, "prompt": [token], "max_tokens": 1, "temperature": 0}
        answer = send(httpx.Request("POST", f"{base}/completions", json=body), origin, limits, settings)
        if answer.status_code not in (httpx.codes.OK, httpx.codes.BAD_REQUEST):
            raise NotReady(f"{base} answered a first question with status {answer.status_code}", remedy="see its log")
        return bool(answer.status_code == httpx.codes.OK)

    try:
        listed = get(f"{base}/models", origin, limits, settings).json()["data"]
        longest = next((one.get("max_model_len") for one in listed if one["id"] == endpoint.served_model_name), None)
        if type(longest) is int and 0 < longest < length:
            raise BadInput(
                f"{base} serves {endpoint.served_model_name} with a context of {longest} tokens, and {length} are needed",
                remedy=f"serve it with --max-model-len {length} or more",
            )
        other = vocabulary and (not takes(vocabulary - 1) or takes(vocabulary + _BEYOND))
    except httpx.HTTPError as error:
        raise NotReady(f"{base} does not answer: {error}", remedy="see the server's log") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{base} does not answer as vLLM does", remedy=_BASE) from error
    if other:
        raise BadInput(
            f"{base} serves another model: its vocabulary is not the {vocabulary} tokens of the one that is shipped",
            remedy="give the endpoint of this model, unquantized for the baseline and quantized for the candidate",
        )


def check_apart(found: Mapping[str, Endpoint]) -> None:
    """Raises BadInput when two roles are one and the same model of one server: it would be compared with itself."""
    places = {role: (one.url, one.served_model_name) for role, one in found.items()}
    if len(set(places.values())) < len(places):
        url, name = next(iter(places.values()))
        raise BadInput(
            f"{' and '.join(places)} are the same model {name} at {url}, which would be compared with itself",
            remedy="give each role its own server, or its own model of one server (URL#NAME)",
        )


def check_same(versions: dict[str, str]) -> None:
    """Raises BadInput when the servers of two roles are of different versions: that alone changes answers."""
    if len(set(versions.values())) > 1:
        told = ", ".join(f"the {role} by vLLM {version}" for role, version in versions.items())
        raise BadInput(
            f"the models would be measured by different servers: {told}",
            remedy="serve both by the same version, or leave both to Carwright",
        )
