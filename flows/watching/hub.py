"""Reads the current state of a Hugging Face hub with as few requests as possible.

Every answer with an ETag is kept and requested again with If-None-Match (RFC 9110, 13.1.2), so an unchanged model costs one
small request, answered with 304. When the hub limits the rate (429 with RateLimit or Retry-After), all threads wait. When it
does not answer, the remaining models are not asked for. Requests are those of `containers.hub_http`.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import httpx2
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from containers.checkpoint_files import CONFIG
from containers.contract import Frozen
from containers.errors import BadInput, Temporary
from containers.foreign_json import LISTING, parse_json
from containers.hub_http import BUSY, HubHttp, retry_after
from containers.web.limits import TooSlow
from flows.watching.listing import ListingDifference, difference, not_a_hub, read_page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.settings import Settings

_ATTEMPTS: Final = 4
_MAX_WAIT: Final = 300.0  # seconds: the hub counts requests over five minutes; a longer wait is an error


class NotFoundOnHub(BadInput):
    """A model or revision that was removed, or that this token may not read."""


class HubUnavailable(Temporary):
    """The hub does not answer, or asks for a longer wait than a scan allows."""


class _RetryableHubError(Temporary):
    """The same request may succeed later; `hub_wide` if the failure concerns the hub and not one model."""

    def __init__(self, message: str, *, hub_wide: bool) -> None:
        super().__init__(message, remedy="nothing is rebuilt; the next scan asks again")
        self.hub_wide = hub_wide


class Head(NamedTuple):
    """Where a revision points; `gated` is False, "auto" or "manual"."""

    commit: str
    gated: bool | str


class Compared(ListingDifference):
    """`rewritten`: the earlier commit is not in the later one's history, after a force push or a moved tag."""

    rewritten: bool


class CachedAnswer(Frozen):
    """An answer with its ETag; `value` is the part of its JSON that is used."""

    etag: str
    value: Any


class HubClient:
    """One hub, for one scan of many models; threads share it.

    `cache` maps addresses to earlier answers. `used` collects the answers of this scan, `requests` counts its requests.
    """

    def __init__(self, settings: Settings, cache: Mapping[str, CachedAnswer]) -> None:
        self._http = HubHttp(settings.hub_endpoint, settings.hub_token, settings.http)
        self.endpoint = self._http.endpoint
        self.used: dict[str, CachedAnswer] = {}
        self.requests = 0
        self._cache = cache
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._unavailable: HubUnavailable | None = None

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
        """The commit that an earlier scan found."""
        cached = self._cache.get(
            self._address(f"{repository}/revision/{quote(revision, safe='')}?expand=sha&expand=gated")
        )
        return str(cached.value[0]) if cached is not None else None

    def listing(self, repository: str, commit: str) -> dict[str, str]:
        """Every file of a commit with its hash: sha256 for an LFS file, git's hash for any other."""
        address: str | None = self._address(f"{repository}/tree/{commit}?recursive=true")
        files: dict[str, str] = {}
        pages = self._http.pages(f"the files of {repository}")
        while address is not None:
            answer = self._send(address, repository, commit)
            files |= read_page(answer.content, self.endpoint)
            address = pages.following(answer, address)
        return files

    def has_ancestor(self, repository: str, commit: str, ancestor: str) -> bool | None:
        """Whether `ancestor` is in the history of `commit`; None if the first page of the history does not show it."""
        answer = self._send(self._address(f"{repository}/commits/{commit}"), repository, commit)
        commits = parse_json(answer.content, f"the history of {repository}", LISTING)
        if not isinstance(commits, list) or not all(isinstance(one, dict) for one in commits):
            raise not_a_hub(self.endpoint, TypeError("the history is not a list"))
        if any(one.get("id") == ancestor for one in commits):
            return True
        return None if "next" in answer.links else False

    def compare(self, repository: str, before: str, after: str) -> Compared:
        """The differences between two commits; cached for good. Raises NotFoundOnHub if one of them is gone."""
        key = self._address(f"{repository}/compare/{before}..{after}")  # of this hub: a mirror may say anything
        if (known := self._cache.get(key)) is None:
            found = difference(self.listing(repository, before), self.listing(repository, after))
            rewritten = self.has_ancestor(repository, after, before) is False
            compared = Compared(decisive=found.decisive, other=found.other, rewritten=rewritten)
            known = CachedAnswer(etag="", value=compared.model_dump(mode="json"))
        self.used[key] = known
        return Compared.model_validate(known.value)

    def check_access(self, repository: str, commit: str) -> None:
        """Raises NotFoundOnHub if this token may not read the files of a gated repository, whose listing is public."""
        url = hf_hub_url(repository, CONFIG, revision=commit, endpoint=self.endpoint)
        with _translated(self.endpoint, repository, commit):
            answer = self._http.head(url)
            if answer.is_error:
                hf_raise_for_status(answer)

    def _address(self, what: str) -> str:
        return self._http.address(what)

    def _value(self, what: str, repository: str, revision: str, read: Any) -> Any:
        address = self._address(what)
        known = self._cache.get(address)
        if known is not None:
            self.used[address] = known  # kept even if the hub does not answer
        answer = self._send(address, repository, revision, known.etag if known is not None else "")
        if answer.status_code == 304 and known is not None:
            return known.value
        try:
            value = read(parse_json(answer.content, f"the answer of {self.endpoint}", LISTING))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_a_hub(self.endpoint, error) from error
        if etag := answer.headers.get("ETag"):
            self.used[address] = CachedAnswer(etag=etag, value=value)
        return value

    def _send(self, address: str, repository: str, revision: str, etag: str = "") -> httpx2.Response:
        """The answer, 200 or 304; retried as the module describes."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.5, max=8.0),
            retry=retry_if_exception_type(_RetryableHubError),
            reraise=True,
        )
        try:
            return retrying(self._once, address, repository, revision, etag)
        except _RetryableHubError as error:
            unavailable = HubUnavailable(error.message, remedy=error.remedy)
            if error.hub_wide:
                with self._lock:
                    self._unavailable = self._unavailable or unavailable
            raise unavailable from error

    def _once(self, address: str, repository: str, revision: str, etag: str) -> httpx2.Response:
        self._wait()
        with self._lock:
            self.requests += 1
        try:
            answer = self._http.get(address, {"If-None-Match": etag} if etag else None)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise BadInput(
                f"the hub's endpoint is not a URL: {self.endpoint!r}", remedy="check CARWRIGHT_HUB_ENDPOINT"
            ) from error
        except TooSlow as error:
            raise HubUnavailable(error.message, remedy=error.remedy) from error
        except httpx2.TransportError as error:
            raise _RetryableHubError(
                f"the hub does not answer ({self.endpoint}): {error or type(error).__name__}", hub_wide=True
            ) from error
        if answer.status_code in BUSY:
            self._honour_rate_limit(answer)
            raise _RetryableHubError(
                f"the hub is busy or failing ({answer.status_code} from {self.endpoint})",
                hub_wide=answer.status_code == 429,
            )
        if answer.status_code != 304:
            with _translated(self.endpoint, repository, revision):
                hf_raise_for_status(answer)
        return answer

    def _wait(self) -> None:
        """Wait until the hub accepts requests again; raises HubUnavailable if it is known not to answer."""
        with self._lock:
            if self._unavailable is not None:
                raise self._unavailable
            seconds = self._not_before - time.monotonic()
        if seconds > 0:
            time.sleep(seconds)

    def _honour_rate_limit(self, answer: httpx2.Response) -> None:
        """Make every thread wait for as long as the answer demands."""
        asked = retry_after(answer.headers) or 0.0
        with self._lock:
            if asked > _MAX_WAIT:
                self._unavailable = HubUnavailable(
                    f"the hub asks clients to wait {asked:.0f} s ({answer.status_code} from {self.endpoint})",
                    remedy="nothing is rebuilt; the next scan asks again",
                )
                raise self._unavailable
            self._not_before = max(self._not_before, time.monotonic() + asked)


@contextmanager
def _translated(endpoint: str, repository: str, revision: str) -> Iterator[None]:
    """Translate the errors of the hub's client; no message contains the token."""
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
            remedy="remove it from models.yaml, or set HF_TOKEN",
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
            f"the hub does not answer ({endpoint}): {error}", remedy="the next scan asks again"
        ) from error
