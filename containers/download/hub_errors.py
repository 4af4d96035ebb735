"""What the hub's client raises, as the errors of Carwright. None of them holds the token."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from containers.download.retries import Busy
from containers.errors import BadInput, Error, Temporary
from containers.hub_http import BUSY, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.sources import HubSource

_ENDPOINT: Final = "check CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT)"
_LOG_IN: Final = "set HF_TOKEN or run `hf auth login`"


@contextmanager
def translated(source: HubSource, endpoint: str) -> Iterator[None]:
    """Translate the errors of the hub's client: BadInput for what the user can fix, Busy and Temporary for the rest."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise BadInput(
            f"{source} is on a hub, and HF_HUB_OFFLINE is set", remedy="unset it, or give a file:/// source"
        ) from error
    except HFValidationError as error:
        raise BadInput(f"not a model on the hub: {source.repo!r}: {error}") from error
    except HfHubHTTPError as error:
        raise _answered(error, source, endpoint) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise BadInput(f"the hub's endpoint is not a URL: {endpoint!r}", remedy=_ENDPOINT) from error
    except httpx2.TransportError as error:
        raise Temporary(
            f"the hub does not answer ({endpoint}): {error or type(error).__name__}",
            remedy=f"check the network; {_ENDPOINT}; a second run continues from here",
            doctor="hub",
        ) from error
    except (httpx2.HTTPError, ValueError, KeyError, RecursionError) as error:
        raise BadInput(
            f"{endpoint} does not answer as a Hugging Face hub does: {type(error).__name__}: {error}", remedy=_ENDPOINT
        ) from error


def _answered(error: HfHubHTTPError, source: HubSource, endpoint: str) -> Error:
    status, page, doctor = error.response.status_code, f"{endpoint}/{source.repo}", ""
    if status in BUSY:
        return Busy(
            f"the hub is busy or failing ({status} from {endpoint})",
            remedy="wait a moment; a second run continues from here",
            after=retry_after(error.response.headers),
        )
    if isinstance(error, GatedRepoError) and status == 403:
        message = f"{source.repo} is gated, and the owner of this token has no access"
        remedy, doctor = f"ask for access at {page}", "hub"
    elif isinstance(error, GatedRepoError):
        message = f"{source.repo} is gated, and no token was given"
        remedy, doctor = f"accept its terms at {page}, then {_LOG_IN}", "hub"
    elif isinstance(error, RepositoryNotFoundError):
        message = f"there is no model {source.repo} at {endpoint}, or it is private"
        remedy = f"check the name; for a private model {_LOG_IN}"
    elif isinstance(error, RevisionNotFoundError):
        message = f"{source.repo} has no revision {source.revision!r}"
        remedy = f"its branches and tags are at {page}/tree/main"
    elif isinstance(error, EntryNotFoundError):
        message = f"a file of {source} is gone: {error.response.url.path}"
        remedy = "resolve the source again"
    elif isinstance(error, DisabledRepoError):
        message = f"the hub has disabled {source.repo}"
        remedy = f"see {page}"
    elif status == 401:
        message = "the hub rejects this token"
        remedy, doctor = f"{_LOG_IN}, with a token that is valid", "hub"
    else:
        message = f"the hub refuses {source} with code {status}"
        remedy, doctor = f"check that the token may read models; {_ENDPOINT}", "hub"
    return BadInput(message, remedy=remedy, doctor=doctor)
