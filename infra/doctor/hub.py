"""The hub: whether it answers, whether it knows the token, and whether the token may read a given model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import httpx2
from huggingface_hub import get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented

from containers.checkpoint_files import CONFIG
from containers.foreign_json import parse_object
from containers.foreign_text import one_line
from containers.hub_http import HubHttp
from containers.sources import HUB
from containers.web.limits import TooSlow
from infra.doctor.line import Line, ok, wrong

if TYPE_CHECKING:
    from infra.settings import Settings

_DEADLINE: Final = 10.0  # seconds for one answer
_NETWORK: Final = "check the network and the proxy (HTTPS_PROXY); folders, S3 and the demo work without a hub"
_LOG_IN: Final = "set HF_TOKEN to a valid token, or run `hf auth login`"


def hub(settings: Settings, model: str = "") -> Line:
    """The hub of the settings; `model` is `hf://org/name[@revision]`, empty for none.

    That it does not answer is a problem only if the settings name a hub or a model was given: folders, S3 and the demo need
    none. Raises BadInput for an endpoint that is no URL, and for answers that no hub gives.
    """
    asked_for = settings.hub_endpoint is not None or bool(model)
    limits = settings.http.model_copy(update={"deadline": min(settings.http.deadline, _DEADLINE)})
    http = HubHttp(settings.hub_endpoint, settings.hub_token, limits)
    endpoint = http.endpoint
    try:
        _answers(http)
        text = f"{endpoint} answers, {_identity(http, known=settings.hub_token is not None or get_token() is not None)}"
        if not model:
            return ok("hub", text)
        return ok("hub", f"{text}; {model} can be read") if not (line := _access(http, model)) else line
    except OfflineModeIsEnabled:
        return wrong("hub", "HF_HUB_OFFLINE is set", "unset it to download models from a hub", asked_for=asked_for)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        return _wrong(
            f"the hub's endpoint is not a URL: {endpoint!r}", "set CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT) right"
        )
    except (TooSlow, httpx2.TransportError) as error:
        said = error.message if isinstance(error, TooSlow) else error or type(error).__name__
        return wrong("hub", f"{endpoint} does not answer: {said}", _offline(error), asked_for=asked_for)
    except HfHubHTTPError as error:
        return _refused(error, endpoint, asked_for=asked_for)


def _answers(http: HubHttp) -> None:
    """Any answer is one, except that of a gateway in front of a hub that is down."""
    answer = http.head(http.endpoint)
    if answer.status_code >= 500:
        raise HfHubHTTPError(f"code {answer.status_code}", response=answer)


def _identity(http: HubHttp, *, known: bool) -> str:
    """What the hub says about the token, if one is known here; raises HfHubHTTPError (401) for one that it does not know."""
    if not known:
        return "no token is set (gated and private models need one)"
    try:
        answer = http.get(f"{http.endpoint}/api/whoami-v2")
        hf_raise_for_status(answer)
    except HfHubHTTPError as error:
        if error.response.status_code in (404, 405):  # a mirror without accounts
            return "and does not say whether it knows the token"
        raise
    name = parse_object(answer.content, f"the answer of {http.endpoint}").get("name", "?")
    return f"and knows the token as {one_line(str(name))}'s"


def _access(http: HubHttp, model: str) -> Line | None:
    """Why the model cannot be read; None if it can."""
    repository, _, revision = model.removeprefix(HUB).partition("@")
    page = f"{http.endpoint}/{repository}"
    try:
        url = hf_hub_url(repository, CONFIG, revision=revision or None, endpoint=http.endpoint)
        about = repository + (f"/revision/{quote(revision, safe='')}" if revision else "")
        # The listing of a gated model is public, its files are not.
        for answer in (http.get(http.address(about)), http.head(url)):
            if answer.is_error:
                hf_raise_for_status(answer)
    except HFValidationError:
        text, remedy = f"{model!r} is not a model on a hub", "write hf://org/name or hf://org/name@revision"
    except GatedRepoError as error:
        if error.response.status_code == 403:
            text, remedy = f"{repository} is gated, and the owner of this token has no access", f"ask for it at {page}"
        else:
            text, remedy = f"{repository} is gated, and no token is set", f"accept its terms at {page}, then {_LOG_IN}"
    except RepositoryNotFoundError:
        text = f"there is no model {repository} at {http.endpoint}, or it is private"
        remedy = f"check the name; for a private model {_LOG_IN}"
    except RevisionNotFoundError:
        text, remedy = f"{repository} has no revision {revision!r}", f"its branches and tags are at {page}/tree/main"
    except EntryNotFoundError:
        text, remedy = f"{model} has no {CONFIG}", "give a model whose checkpoint is in the format of transformers"
    else:
        return None
    return _wrong(text, remedy)


def _refused(error: HfHubHTTPError, endpoint: str, *, asked_for: bool) -> Line:
    status = error.response.status_code
    if status == 401:
        return _wrong(f"{endpoint} rejects the token", _LOG_IN)
    if status == 403:
        return _wrong(f"{endpoint} forbids this token to read", "give the token the permission to read models")
    return wrong("hub", f"{endpoint} answers with code {status}", "try again later, or check CARWRIGHT_HUB_ENDPOINT",
                 asked_for=asked_for)  # fmt: skip


def _wrong(text: str, remedy: str) -> Line:
    """About a token, a model or an endpoint, which somebody gave."""
    return wrong("hub", text, remedy, asked_for=True)


def _offline(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "name the bundle of your own certificate authority in SSL_CERT_FILE"
    return _NETWORK
