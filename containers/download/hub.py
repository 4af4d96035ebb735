"""Checkpoints on a Hugging Face hub, through its own client, `huggingface_hub`.

Listings, access checks, addresses, headers and errors are the client's. The bytes are read here, over the client's HTTP
session: its `hf_hub_download` writes to a temporary file of its own and removes it when it fails (2.4,
`_download_to_tmp_and_move`), so that nothing would be left to go on from after a crash.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # documented

from containers.digest import Digest
from containers.download.hub_errors import translated
from containers.download.retries import retrying
from containers.download.selection import Remote
from containers.errors import BadInput, Temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pydantic import SecretStr

    from containers.download.sources import HubSource

T = TypeVar("T")

_FILES_MAX: Final = 100_000  # of a repository; the hub itself advises against more
_LARGEST: Final = 2**63 - 1  # bytes of a file
_TIMEOUT: Final = httpx2.Timeout(30.0)  # seconds without a byte; the client itself would wait for ever


class HubOrigin:
    """A model repository. The token goes to the hub alone: a redirect to another origin loses it (RFC 9110, 15.4)."""

    def __init__(
        self, source: HubSource, endpoint: str | None, token: SecretStr | None, say: Callable[[str], object]
    ) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told in our own words
        self._source = source
        self._say = say
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token.get_secret_value() if token is not None else None  # None: the client's own token file
        self._api = HfApi(endpoint=self._endpoint, token=self._token)

    def commit(self) -> str | None:
        info = self._call(lambda: self._api.model_info(self._source.repo, revision=self._source.revision))
        if info.sha is None:
            raise BadInput(f"{self._endpoint} names no commit of {self._source}", remedy="check CARWRIGHT_HUB_ENDPOINT")
        return info.sha

    def files(self, commit: str | None) -> list[Remote]:
        files = self._call(lambda: listed(self._api.list_repo_tree(self._source.repo, recursive=True, revision=commit)))
        # The listing of a gated repository is public, its contents are not: ask for one before anything is planned.
        # (There is a call for that, auth_check; mirrors of the hub do not have it.)
        if files:
            address = hf_hub_url(self._source.repo, files[0].path, revision=commit, endpoint=self._endpoint)
            self._call(lambda: get_hf_file_metadata(address, token=self._token))
        return files

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        url = hf_hub_url(self._source.repo, file.path, revision=self._source.revision, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token)
        headers["Accept-Encoding"] = "identity"  # a range of a compressed body is no range of the file
        if (start, stop) != (0, file.size):
            headers["Range"] = f"bytes={start}-{stop - 1}"
        with (
            translated(self._source, self._endpoint),
            _client().stream("GET", url, headers=headers, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if response.status_code == 206 and not _starts_at(response, start):
                raise Temporary(f"{self._endpoint} sent another part of {file.path} than was asked for")
            # In the pieces that arrive: asked for larger ones, httpx2 loses what it has gathered when the line is cut.
            yield (start if response.status_code == 206 else 0), response.iter_bytes()

    def held(self, file: Remote) -> AbstractContextManager[Path] | None:
        return None

    def _call(self, ask: Callable[[], T]) -> T:
        def once() -> T:
            _client()
            with translated(self._source, self._endpoint):
                return ask()

        return retrying(self._say)(once)


def _client() -> httpx2.Client:
    """The client's session, with a deadline. It is made anew after a failed connection, so this is asked each time."""
    session = get_session()
    session.timeout = _TIMEOUT
    return session


def listed(tree: Iterable[object]) -> list[Remote]:
    """The files of a listing; raises ValueError for what the client takes from a server that is no hub, and BadInput."""
    try:
        files = [_remote(entry) for entry in islice(tree, _FILES_MAX + 1) if isinstance(entry, RepoFile)]
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the listing cannot be read ({error})") from error
    if len(files) > _FILES_MAX:
        raise BadInput(f"the repository has more than {_FILES_MAX} files", remedy="give a repository with a checkpoint")
    return files


def _remote(entry: RepoFile) -> Remote:
    size = entry.size if entry.lfs is None else entry.lfs.size
    named = entry.blob_id if entry.lfs is None else entry.lfs.sha256
    if (
        type(size) is not int
        or not 0 <= size <= _LARGEST
        or not isinstance(entry.path, str)
        or not isinstance(named, str)
    ):
        raise ValueError("the listing has a file without a path, a size or a hash")
    if entry.lfs is None:
        return Remote(entry.path, size, git=named)
    return Remote(entry.path, size, sha256=Digest(named))


def _starts_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
