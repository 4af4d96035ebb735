"""Checkpoints on a Hugging Face hub.

Addresses and errors are those of its own client, `huggingface_hub`; listings and bytes are read here (`containers.hub_http`). The client's `hf_hub_download` writes to a temporary file of its own and removes it when it fails
(2.4, `_download_to_tmp_and_move`), so that nothing would be left to go on from after a crash.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented

from containers.digest import Digest
from containers.download.hub_errors import translated
from containers.download.retries import retrying
from containers.download.selection import Remote
from containers.errors import BadInput, Temporary
from containers.hub_http import HubHttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from containers.download.sources import HubSource
    from containers.settings import StepSettings

T = TypeVar("T")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


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
        found, _ = self._json(self._http.address(path))
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise BadInput(f"{self._endpoint} names no commit of {self._source}", remedy="check CARWRIGHT_HUB_ENDPOINT")
        return commit

    def files(self, commit: str | None) -> list[Remote]:
        files = list(self._listing(quote(commit or "main", safe="")))
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

    def _listing(self, revision: str) -> Iterator[Remote]:
        address: str | None = self._http.address(f"{self._source.repo}/tree/{revision}?recursive=true&expand=false")
        pages = self._http.pages(f"the files of {self._source}")
        while address is not None:
            entries, answer = self._json(address)
            try:
                yield from (_remote(entry) for entry in entries if entry["type"] == "file")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadInput(
                    f"{self._endpoint} does not list the files of {self._source} as a Hugging Face hub does",
                    remedy="check CARWRIGHT_HUB_ENDPOINT",
                ) from error
            address = pages.following(answer, address)

    def _json(self, address: str) -> tuple[Any, Any]:
        """An answer's JSON, and the answer."""

        def ask() -> tuple[Any, Any]:
            answer = self._http.get(address)
            hf_raise_for_status(answer)
            return answer.json(), answer

        found, answer = self._call(ask)
        if not isinstance(found, (dict, list)):
            raise BadInput(
                f"{self._endpoint} does not answer as a Hugging Face hub does", remedy="check CARWRIGHT_HUB_ENDPOINT"
            )
        return found, answer

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        url = hf_hub_url(self._source.repo, file.path, revision=self._source.revision, endpoint=self._endpoint)
        headers = {"Range": f"bytes={start}-{stop - 1}"} if (start, stop) != (0, file.size) else {}
        with (
            translated(self._source, self._endpoint),
            self._http.stream(url, headers) as (response, pieces),
        ):
            hf_raise_for_status(response)
            if response.status_code == 206 and not _starts_at(response, start):
                raise Temporary(f"{self._endpoint} sent another part of {file.path} than was asked for")
            yield (start if response.status_code == 206 else 0), pieces

    def path(self, file: Remote) -> Path | None:
        return None

    def _call(self, ask: Callable[[], T]) -> T:
        def once() -> T:
            with translated(self._source, self._endpoint):
                return ask()

        return retrying(self._say)(once)


def _remote(entry: Any) -> Remote:
    """One entry of a listing; raises KeyError, TypeError or ValueError for what is none."""
    path, large = entry["path"], entry.get("lfs")
    size = (large or entry)["size"]
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError(f"an entry {path!r} of {size!r} bytes")
    if large:
        return Remote(path, size, sha256=Digest(large["oid"]))
    return Remote(path, size, git=str(entry["oid"]))


def _starts_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
