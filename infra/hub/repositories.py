"""Repositories in a folder: commits, branches, tags and who may read.

    <root>/blobs/<sha256>                  contents
    <root>/repositories/<org>/<name>.json  one `HubRepository`
    <root>/tokens.json                     the tokens that the server knows

Everything is read anew for each request, so that another process may publish while a server runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE: Final = 1 << 20
# What the hub keeps in git LFS: everything large, and these whatever their size (its default .gitattributes).
_LFS_SIZE: Final = 10 << 20
_LFS_SUFFIXES: Final = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".model", ".npz", ".pkl"}
)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubFile(_Value):
    """One file of a commit; `oid` is git's: of the content, or, for an LFS file, of its pointer."""

    path: str
    size: int
    sha256: str
    oid: str
    lfs: bool

    @property
    def pointer_size(self) -> int:
        return len(_pointer(self.sha256, self.size))


class Commit(_Value):
    """A state of a repository. `date` is RFC 3339."""

    parent: str | None
    title: str
    date: str
    files: tuple[HubFile, ...]

    def file(self, path: str) -> HubFile | None:
        return next((file for file in self.files if file.path == path), None)


class HubRepository(_Value):
    """`gated`: files need a token that is among `readers`; `private`: the repository itself does."""

    id: str
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    readers: tuple[str, ...] = ()
    commits: dict[str, Commit] = {}
    branches: dict[str, str] = {}
    tags: dict[str, str] = {}

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag, `refs/...`, a commit or the start of one (5 digits at least) names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if found := self.branches.get(name) or self.tags.get(name):
            return found
        starting = [commit for commit in self.commits if commit.startswith(revision)]
        return starting[0] if len(revision) >= 5 and len(starting) == 1 else None


class Repositories:
    """The folder. Writers exclude each other by a file lock; readers see a repository before or after a change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("blobs", "repositories"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def publish(
        self,
        repo_id: str,
        folder: Path,
        *,
        branch: str = "main",
        title: str = "Upload model",
        date: datetime | None = None,
        link: bool = False,
    ) -> str:
        """Make the files below a folder a commit and move a branch to it; returns the commit's 40 hex digits.

        The commit's name is made from the contents and the parent alone, and publishing what the branch holds already
        changes nothing. `date` is the commit's (default: now). With `link` contents are hard links where the file system
        allows: the files must not change.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = tuple(self._add(path, path.relative_to(folder).as_posix(), link=link) for path in paths)
        with self._writing(repo_id) as (repository, save):
            parent = repository.branches.get(branch)
            if parent is not None and repository.commits[parent].files == files:
                return parent
            identity = json.dumps([parent, [[file.path, file.size, file.sha256] for file in files]])
            name = hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()
            written = (date or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            commit = Commit(parent=parent, title=title, date=written, files=files)
            save(commits={**repository.commits, name: commit}, branches={**repository.branches, branch: name})
        return name

    def move_branch(self, repo_id: str, name: str, commit: str) -> None:
        with self._writing(repo_id) as (repository, save):
            save(branches={**repository.branches, name: _known(repository, commit)})

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        with self._writing(repo_id) as (repository, save):
            save(tags={**repository.tags, name: _known(repository, commit)})

    def protect(self, repo_id: str, *, gated: Literal[False, "auto", "manual"] = False, private: bool = False) -> None:
        with self._writing(repo_id) as (_, save):
            save(gated=gated, private=private)

    def grant(self, repo_id: str, token: str) -> None:
        """Let the owner of a token read a gated or private repository."""
        self.add_token(token)
        with self._writing(repo_id) as (repository, save):
            save(readers=tuple(sorted({*repository.readers, token})))

    def add_token(self, token: str) -> None:
        """Make a token known; it reads what is public and nothing else."""
        with self._locked():
            _replace(self.root / "tokens.json", json.dumps(sorted({*self.tokens(), token})))

    def tokens(self) -> frozenset[str]:
        try:
            return frozenset(json.loads((self.root / "tokens.json").read_text()))
        except FileNotFoundError:
            return frozenset()

    def find(self, repo_id: str) -> HubRepository | None:
        try:
            return HubRepository.model_validate_json(self._path(repo_id).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _path(self, repo_id: str) -> Path:
        return self.root / "repositories" / f"{repo_id}.json"

    def _add(self, path: Path, name: str, *, link: bool) -> HubFile:
        size = path.stat().st_size
        sha256 = hashlib.sha256()
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                sha256.update(piece)
                git.update(piece)
        digest = sha256.hexdigest()
        blob = self.blob(digest)
        if not blob.exists():
            unique = blob.with_name(f".{digest}.{uuid.uuid4().hex}")
            if link:
                try:
                    os.link(path, unique)
                except OSError:  # another file system
                    shutil.copyfile(path, unique)
            else:
                shutil.copyfile(path, unique)
            unique.replace(blob)
        lfs = size > _LFS_SIZE or path.suffix in _LFS_SUFFIXES
        oid = _git_oid(_pointer(digest, size)) if lfs else git.hexdigest()
        return HubFile(path=name, size=size, sha256=digest, oid=oid, lfs=lfs)

    @contextmanager
    def _writing(self, repo_id: str) -> Iterator[tuple[HubRepository, _Save]]:
        with self._locked():
            repository = self.find(repo_id) or HubRepository(id=repo_id)
            yield repository, _Save(self._path(repo_id), repository)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Save:
    """Writes a changed copy of a repository."""

    def __init__(self, path: Path, repository: HubRepository) -> None:
        self._path = path
        self._repository = repository

    def __call__(self, **changes: object) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._path, self._repository.model_copy(update=changes).model_dump_json())


def _known(repository: HubRepository, commit: str) -> str:
    if commit not in repository.commits:
        raise KeyError(f"{repository.id} has no commit {commit}")
    return commit


def _replace(path: Path, text: str) -> None:
    unique = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    unique.write_text(text)
    unique.replace(path)


def _pointer(sha256: str, size: int) -> bytes:
    """What git holds instead of an LFS file (git-lfs, docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
