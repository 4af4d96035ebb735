"""What a Hugging Face hub has now, asked as seldom and as cheaply as it can be.

Every answer that carries an ETag is kept, and asked for again with If-None-Match (RFC 9110, 13.1.2): a model that did not
change costs one small request whose answer is 304. A hub that asks for patience (429 with RateLimit or Retry-After)
gets it from every thread at once; one that does not answer is not asked again by the lines that are left.
Addresses, login, session and errors are those of the hub's own client.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented
    build_hf_headers,
    hf_raise_for_status,
    parse_ratelimit_headers,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from containers.contract import Frozen
from containers.errors import BadInput, Temporary
from flows.watching.listing import ListingDifference, difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.settings import Settings

_TIMEOUT: Final = httpx2.Timeout(30.0)  # seconds without a byte
_ATTEMPTS: Final = 4
_LONGEST: Final = 300.0  # seconds: the hub counts requests over five minutes; who asks for more is not waited for
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})  # those that huggingface_hub retries (utils/_http.py)


class NotFoundOnHub(BadInput):
    """The hub does not have it, or not for us: a model that was removed, made private or gated; a revision that is gone."""


class HubUnavailable(Temporary):
    """The hub does not answer, or asks for more patience than a look has."""


class _RetryableHubError(Temporary):
    """Worth another try of the same request; `hub_wide` when it says something of the hub and not of one model."""

    def __init__(self, message: str, *, hub_wide: bool) -> None:
        super().__init__(message, remedy="nothing is rebuilt; the next look asks again")
        self.hub_wide = hub_wide


class Head(NamedTuple):
    """Where a revision points; `gated` is False, "auto" or "manual"."""

    commit: str
    gated: bool | str


class Compared(ListingDifference):
    """`rewritten`: the earlier commit is not in the history of the later one; a branch was forced, or a tag moved."""

    rewritten: bool


class CachedAnswer(Frozen):
    """An answer as it was when it had that ETag; `value` is the part of its JSON that is used."""

    etag: str
    value: Any


class HubClient:
    """One hub, for one look at many models; threads share it.

    `kept` maps addresses to earlier answers; afterwards `used` holds those that this look was about, and `requests` is
    the number of requests.
    """

    def __init__(self, settings: Settings, kept: Mapping[str, CachedAnswer]) -> None:
        self.endpoint = (settings.hub_endpoint or constants.ENDPOINT).rstrip("/")
        self.used: dict[str, CachedAnswer] = {}
        self.requests = 0
        self._kept = kept
        self._token = settings.hub_token.get_secret_value() if settings.hub_token is not None else None
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._down: HubUnavailable | None = None

    def head(self, repository: str, revision: str) -> Head:
        """The commit of a branch, a tag or a commit. Raises NotFoundOnHub and HubUnavailable."""
        what = f"{repository}/revision/{quote(revision, safe='')}?expand=sha&expand=gated"
        found = self._value(what, repository, revision, lambda answer: [answer["sha"], answer.get("gated", False)])
        return Head(str(found[0]), found[1])

    def tags(self, repository: str) -> dict[str, str]:
        """Every tag with its commit."""
        return dict(
            self._value(
                f"{repository}/refs",
                repository,
                "refs",
                lambda answer: {tag["name"]: tag["targetCommit"] for tag in answer["tags"]},
            )
        )

    def last_known(self, repository: str, revision: str) -> str | None:
        """The commit that an earlier look saw."""
        kept = self._kept.get(
            self._address(f"{repository}/revision/{quote(revision, safe='')}?expand=sha&expand=gated")
        )
        return str(kept.value[0]) if kept is not None else None

    def listing(self, repository: str, commit: str) -> dict[str, str]:
        """Every file of a commit with what names its contents: the sha256 of an LFS file, git's hash of another."""
        address: str | None = self._address(f"{repository}/tree/{commit}?recursive=true")
        files: dict[str, str] = {}
        while address is not None:
            answer = self._send(address, repository, commit)
            for entry in answer.json():
                if entry["type"] == "file":
                    files[entry["path"]] = entry["lfs"]["oid"] if entry.get("lfs") else entry["oid"]
            address = answer.links.get("next", {}).get("url")
        return files

    def descends(self, repository: str, commit: str, ancestor: str) -> bool | None:
        """Whether `ancestor` is in the history of `commit`; None where the first page of it does not tell."""
        answer = self._send(self._address(f"{repository}/commits/{commit}"), repository, commit)
        if any(one["id"] == ancestor for one in answer.json()):
            return True
        return None if "next" in answer.links else False

    def compare(self, repository: str, before: str, after: str) -> Compared:
        """What differs between two commits, which never changes: asked once. Raises NotFoundOnHub when one of them is gone."""
        key = f"{repository}/compare/{before}..{after}"
        if (known := self._kept.get(key)) is None:
            found = difference(self.listing(repository, before), self.listing(repository, after))
            rewritten = self.descends(repository, after, before) is False
            compared = Compared(decisive=found.decisive, other=found.other, rewritten=rewritten)
            known = CachedAnswer(etag="", value=compared.model_dump(mode="json"))
        self.used[key] = known
        return Compared.model_validate(known.value)

    def readable(self, repository: str, commit: str) -> None:
        """Raises NotFoundOnHub when the files of a gated repository are not for this token; its listing is public."""
        url = hf_hub_url(repository, "config.json", revision=commit, endpoint=self.endpoint)
        with _translated(self.endpoint, repository, commit):
            get_hf_file_metadata(url, token=self._token, timeout=30.0)

    def _address(self, what: str) -> str:
        return f"{self.endpoint}/api/models/{what}"

    def _value(self, what: str, repository: str, revision: str, read: Any) -> Any:
        address = self._address(what)
        known = self._kept.get(address)
        if known is not None:
            self.used[address] = known  # what was known stays known when the hub does not answer
        answer = self._send(address, repository, revision, known.etag if known is not None else "")
        if answer.status_code == 304 and known is not None:
            return known.value
        try:
            value = read(answer.json())
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(
                f"{self.endpoint} does not answer as a Hugging Face hub does: {type(error).__name__}: {error}",
                remedy="check CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT)",
            ) from error
        if etag := answer.headers.get("ETag"):
            self.used[address] = CachedAnswer(etag=etag, value=value)
        return value

    def _send(self, address: str, repository: str, revision: str, etag: str = "") -> httpx2.Response:
        """An answer that is 200 or 304; waits, asks again and gives up as the module says."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.5, max=8.0),
            retry=retry_if_exception_type(_RetryableHubError),
            reraise=True,
        )
        try:
            return retrying(self._once, address, repository, revision, etag)
        except _RetryableHubError as error:
            down = HubUnavailable(error.message, remedy=error.remedy)
            if error.hub_wide:
                with self._lock:
                    self._down = self._down or down
            raise down from error

    def _once(self, address: str, repository: str, revision: str, etag: str) -> httpx2.Response:
        self._wait()
        headers = build_hf_headers(token=self._token)
        if etag:
            headers["If-None-Match"] = etag
        with self._lock:
            self.requests += 1
        try:
            answer = get_session().get(address, headers=headers, timeout=_TIMEOUT)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise BadInput(
                f"the hub's endpoint is not a URL: {self.endpoint!r}", remedy="check CARWRIGHT_HUB_ENDPOINT"
            ) from error
        except httpx2.TransportError as error:
            raise _RetryableHubError(
                f"the hub does not answer ({self.endpoint}): {error or type(error).__name__}", hub_wide=True
            ) from error
        if answer.status_code in _BUSY:
            self._be_patient(answer)
            raise _RetryableHubError(
                f"the hub is busy or failing ({answer.status_code} from {self.endpoint})",
                hub_wide=answer.status_code == 429,
            )
        if answer.status_code != 304:
            with _translated(self.endpoint, repository, revision):
                hf_raise_for_status(answer)
        return answer

    def _wait(self) -> None:
        """Until the hub takes requests again; raises HubUnavailable when it is known not to answer."""
        with self._lock:
            if self._down is not None:
                raise self._down
            seconds = self._not_before - time.monotonic()
        if seconds > 0:
            time.sleep(seconds)

    def _be_patient(self, answer: httpx2.Response) -> None:
        """Hold every thread back for as long as the answer asks."""
        limit = parse_ratelimit_headers(answer.headers)
        after = answer.headers.get("Retry-After", "")
        asked = float(limit.reset_in_seconds) if limit is not None else float(after) if after.isdigit() else 0.0
        with self._lock:
            if asked > _LONGEST:
                self._down = HubUnavailable(
                    f"the hub asks for {asked:.0f} s of patience ({answer.status_code} from {self.endpoint})",
                    remedy="nothing is rebuilt; the next look asks again",
                )
                raise self._down
            self._not_before = max(self._not_before, time.monotonic() + asked)


@contextmanager
def _translated(endpoint: str, repository: str, revision: str) -> Iterator[None]:
    """The errors of the hub's client as ours; none of them holds the token."""
    page = f"{endpoint}/{repository}"
    try:
        yield
    except GatedRepoError as error:
        raise NotFoundOnHub(
            f"{repository} is gated, and this token may not read it", remedy=f"ask for access at {page}"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotFoundOnHub(
            f"{repository} is no longer at {endpoint}, or is private now",
            remedy="take it out of models.yaml, or set HF_TOKEN",
        ) from error
    except RevisionNotFoundError as error:
        raise NotFoundOnHub(
            f"{repository} has no revision {revision!r}", remedy=f"its branches and tags are at {page}"
        ) from error
    except DisabledRepoError as error:
        raise NotFoundOnHub(f"the hub has disabled {repository}", remedy=f"see {page}") from error
    except HfHubHTTPError as error:
        raise BadInput(
            f"the hub refuses {repository} with code {error.response.status_code}",
            remedy="check HF_TOKEN and CARWRIGHT_HUB_ENDPOINT",
        ) from error
    except httpx2.TransportError as error:
        raise HubUnavailable(
            f"the hub does not answer ({endpoint}): {error}", remedy="the next look asks again"
        ) from error
