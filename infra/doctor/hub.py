"""The hub: whether it answers, whether it knows the token, and whether the token may read a given model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from infra.doctor.line import Line, ok, wrong

if TYPE_CHECKING:
    from infra.settings import Settings

_TIMEOUT: Final = httpx2.Timeout(10.0)  # seconds without a byte
_LOG_IN: Final = "set HF_TOKEN to a valid token, or run `hf auth login`"
_FILE: Final = "config.json"  # every checkpoint has it; the listing of a gated model is public, its files are not


def hub(settings: Settings, model: str = "") -> Line:
    """The hub of the settings; `model` is `hf://org/name[@revision]`, empty for none.

    That it does not answer is a problem only if the settings name a hub or a model was given: folders, S3 and the demo need
    none.
    """
    endpoint = (settings.hub_endpoint or constants.ENDPOINT).rstrip("/")
    token = settings.hub_token.get_secret_value() if settings.hub_token is not None else get_token()
    asked_for = settings.hub_endpoint is not None or bool(model)
    try:
        get_session().timeout = _TIMEOUT
        _answers(endpoint)
        text = f"{endpoint} answers, {_identity(endpoint, token)}"
        if not model:
            return ok("hub", text)
        return ok("hub", f"{text}; {model} can be read") if not (line := _access(endpoint, token, model)) else line
    except OfflineModeIsEnabled:
        return wrong("hub", "HF_HUB_OFFLINE is set", "unset it to download models from a hub", asked_for=asked_for)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        return _wrong(
            f"the hub's endpoint is not a URL: {endpoint!r}", "set CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT) right"
        )
    except httpx2.TransportError as error:
        return wrong("hub", f"{endpoint} does not answer: {error or type(error).__name__}", _offline(error),
                     asked_for=asked_for)  # fmt: skip
    except HfHubHTTPError as error:
        return _refused(error, endpoint, asked_for=asked_for)


def _answers(endpoint: str) -> None:
    """Any answer is one, except that of a gateway in front of a hub that is down."""
    answer = get_session().head(endpoint, timeout=_TIMEOUT, follow_redirects=True)
    if answer.status_code >= 500:
        raise HfHubHTTPError(f"code {answer.status_code}", response=answer)


def _identity(endpoint: str, token: str | None) -> str:
    """What the hub says about the token; raises HfHubHTTPError (401) for one that it does not know."""
    if token is None:
        return "no token is set (gated and private models need one)"
    try:
        name = HfApi(endpoint=endpoint, token=token).whoami().get("name", "?")
    except HfHubHTTPError as error:
        if error.response.status_code in (404, 405):  # a mirror without accounts
            return "and does not say whether it knows the token"
        raise
    return f"and knows the token as {name}'s"


def _access(endpoint: str, token: str | None, model: str) -> Line | None:
    """Why the model cannot be read; None if it can."""
    repository, _, revision = model.removeprefix("hf://").partition("@")
    page = f"{endpoint}/{repository}"
    try:
        url = hf_hub_url(repository, _FILE, revision=revision or None, endpoint=endpoint)
        HfApi(endpoint=endpoint, token=token or False).model_info(repository, revision=revision or None, timeout=10)
        get_hf_file_metadata(url, token=token or False, timeout=10)
    except HFValidationError:
        text, remedy = f"{model!r} is not a model on a hub", "write hf://org/name or hf://org/name@revision"
    except GatedRepoError as error:
        if error.response.status_code == 403:
            text, remedy = f"{repository} is gated, and the owner of this token has no access", f"ask for it at {page}"
        else:
            text, remedy = f"{repository} is gated, and no token is set", f"accept its terms at {page}, then {_LOG_IN}"
    except RepositoryNotFoundError:
        text = f"there is no model {repository} at {endpoint}, or it is private"
        remedy = f"check the name; for a private model {_LOG_IN}"
    except RevisionNotFoundError:
        text, remedy = f"{repository} has no revision {revision!r}", f"its branches and tags are at {page}/tree/main"
    except EntryNotFoundError:
        text, remedy = f"{model} has no {_FILE}", "give a model whose checkpoint is in the format of transformers"
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


def _offline(error: httpx2.TransportError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "name the bundle of your own certificate authority in SSL_CERT_FILE"
    return "check the network and the proxy (HTTPS_PROXY); folders, S3 and the demo work without a hub"
