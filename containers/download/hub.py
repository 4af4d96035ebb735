"""Checkpoints on a Hugging Face hub.

Addresses and errors are those of its own client, `huggingface_hub`; listings and bytes are read here (`containers.hub_http`).
The client's `hf_hub_download` writes to a temporary file of its own and removes it when it fails (2.4,
`_download_to_tmp_and_move`), so that nothing would be left to go on from after a crash.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented

from containers.digest import Digest
from containers.download.hub_errors import translated
from containers.download.retries import StartOver, retrying
from containers.download.selection import Remote
from containers.errors import BadInput, Temporary
from containers.foreign_json import INT64_MAX, LISTING, parse_json
from containers.hub_http import HubHttp
from containers.sources import COMMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx2

    from containers.settings import StepSettings
    from containers.sources import HubSource

T = TypeVar("T")

_NO_ADDRESS: Final = (404, 405, 501)
_FILES_MAX: Final = 100_000  # of a repository; the hub itself advises against more


class HubOrigin:
    """A model repository. The token goes to the hub alone."""

    def __init__(self, source: HubSource, settings: StepSettings, say: Callable[[str], object]) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told in our own words
        self._source = source
        self._say = say
        self._http = HubHttp(settings.hub_endpoint, settings.hub_token, settings.http)
        self._endpoint = self._http.endpoint

    @property
    def believed(self) -> bool:
        """The hub itself is, a mirror is not (see `HubSource`)."""
        return self._http.is_public

    def commit(self) -> str | None:
        revision = self._source.revision
        path = self._source.repo + (f"/revision/{quote(revision, safe='')}" if revision else "")
        found = parse_json(self._get(self._http.address(path)).content, f"the answer of {self._endpoint}", LISTING)
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise BadInput(f"{self._endpoint} names no commit of {self._source}", remedy="check CARWRIGHT_HUB_ENDPOINT")
        return commit

    def files(self, commit: str | None) -> list[Remote]:
        files = self._listing(quote(commit or "main", safe=""))
        # The listing of a gated repository is public, its contents are not: ask for one before anything is planned.
        # (There is a call for that, auth_check; mirrors of the hub do not have it.)
        if files:
            address = hf_hub_url(self._source.repo, files[0].path, revision=commit, endpoint=self._endpoint)
            self._call(lambda: self._readable(address))
        return files

    def _readable(self, address: str) -> None:
        answer = self._http.head(address)
        if answer.is_error:
            hf_raise_for_status(answer)

    def _listing(self, revision: str) -> list[Remote]:
        tree = self._http.address(f"{self._source.repo}/tree/{revision}?recursive=true&expand=false")
        address: str | None = tree
        pages = self._http.pages(f"the files of {self._source}")
        files: list[Remote] = []
        while address is not None:
            answer = self._get(address, may_lack=address == tree)
            if answer.is_error:
                return self._siblings(revision)
            files += listed(answer.content, self._endpoint)
            if len(files) > _FILES_MAX:
                raise BadInput(
                    f"the repository has more than {_FILES_MAX} files", remedy="give a repository with a checkpoint"
                )
            address = pages.following(answer, address)
        return files

    def _siblings(self, revision: str) -> list[Remote]:
        """The files as the model's own description lists them, for mirrors that have no listing of the tree."""
        address = self._http.address(f"{self._source.repo}/revision/{revision}?blobs=true")
        return siblings(self._get(address).content, self._endpoint)

    def _get(self, address: str, *, may_lack: bool = False) -> httpx2.Response:
        """With `may_lack` also the answer of a mirror that does not know the address at all."""

        def ask() -> httpx2.Response:
            answer = self._http.get(address)
            # The hub itself gives a code with each of its errors: it knows the address, and not the repository or revision.
            if not (may_lack and answer.status_code in _NO_ADDRESS and "X-Error-Code" not in answer.headers):
                hf_raise_for_status(answer)
            return answer

        return self._call(ask)

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        url = hf_hub_url(self._source.repo, file.path, revision=self._source.revision, endpoint=self._endpoint)
        headers = {"Range": f"bytes={start}-{stop - 1}"} if (start, stop) != (0, file.size) else {}
        with (
            translated(self._source, self._endpoint),
            self._http.stream(url, headers) as (response, pieces),
        ):
            if response.status_code == 416 and start:
                raise StartOver(
                    f"{self._endpoint} has no bytes of {file.path} from {start} on", remedy="resolve the source again"
                )
            hf_raise_for_status(response)
            if response.status_code == 206 and not _starts_at(response, start):
                raise Temporary(f"{self._endpoint} sent another part of {file.path} than was asked for")
            yield (start if response.status_code == 206 else 0), pieces

    def held(self, file: Remote) -> AbstractContextManager[Path] | None:
        return None

    def _call(self, ask: Callable[[], T]) -> T:
        def once() -> T:
            with translated(self._source, self._endpoint):
                return ask()

        return retrying(self._say)(once)


def listed(content: bytes, endpoint: str) -> list[Remote]:
    """The files of a page of a hub's listing; raises BadInput for what no hub answers."""
    entries = parse_json(content, f"the listing of {endpoint}", LISTING)
    try:
        return [_remote(entry) for entry in entries if entry["type"] == "file"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_hub(endpoint, error) from error


def siblings(content: bytes, endpoint: str) -> list[Remote]:
    """The files of a model's description (`?blobs=true`); raises BadInput for what no hub answers, or without sizes."""
    described = parse_json(content, f"the answer of {endpoint}", LISTING)
    try:
        entries = described["siblings"]
        if any(entry.get("size") is None for entry in entries):
            raise BadInput(
                f"{endpoint} has no listing of the files (/tree), and describes a model without the sizes of its files",
                remedy="the mirror lacks what a download needs: use the hub, or another mirror (CARWRIGHT_HUB_ENDPOINT)",
            )
        return [_sibling(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_hub(endpoint, error) from error


def _sibling(entry: Any) -> Remote:
    large = entry.get("lfs")
    named = {"lfs": {"oid": large["sha256"], "size": large["size"]}} if large else {"oid": entry["blobId"]}
    return _remote({"path": entry["rfilename"], "size": entry["size"], **named})


def _remote(entry: Any) -> Remote:
    """One entry of a listing; raises KeyError, TypeError, ValueError or AttributeError for what is none."""
    path, large = entry["path"], entry.get("lfs")
    size, named = (large or entry)["size"], (large or entry)["oid"]
    if type(size) is not int or not 0 <= size <= INT64_MAX or not isinstance(path, str) or not isinstance(named, str):
        raise ValueError("the listing has a file without a path, a size or a hash")
    return Remote(path, size, sha256=Digest(named)) if large else Remote(path, size, git=named)


def _not_a_hub(endpoint: str, error: Exception) -> BadInput:
    return BadInput(
        f"{endpoint} does not answer as a Hugging Face hub does: {type(error).__name__}: {error}",
        remedy="check CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT)",
    )


def _starts_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
