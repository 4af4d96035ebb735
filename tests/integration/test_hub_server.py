"""The local hub answers as the public one does, asked by huggingface_hub's real client and by plain HTTP.

Expected headers and codes are those that huggingface_hub 2.4 reads (file_download.py, utils/_http.py) and that its
documentation and issue tracker show of the public hub.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from infra.hub import Fault, Hub, Repositories
from tests.support.download_world import REPO, checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

SHARD = "model-00001-of-00002.safetensors"
TOKEN = "hf_reader"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path, model: Path) -> Iterator[Hub]:
    repositories = Repositories(tmp_path / "hub")
    repositories.publish(REPO, model)
    with Hub(repositories, page=3) as hub:
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def commit_of(hub: Hub, branch: str = "main") -> str:
    return hub.repositories.find(REPO).branches[branch]


def url(hub: Hub, path: str, revision: str = "main") -> str:
    return hf_hub_url(REPO, path, revision=revision, endpoint=hub.endpoint)


def git_object(path: Path) -> str:
    """Git's own name for the contents of a file."""
    return subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True).stdout.strip()


def test_it_listens_on_loopback_alone(hub: Hub) -> None:
    assert hub.endpoint.startswith("http://127.0.0.1:")
    assert hub.cdn.startswith("http://localhost:"), "another host name, as the public hub's is"


def test_clients_may_know_it_by_another_name(tmp_path: Path, model: Path) -> None:
    """A container is found by its name: what the hub hands out must lead there, the second port included."""
    repositories = Repositories(tmp_path / "hub")
    repositories.publish(REPO, model)
    with Hub(repositories, host="127.0.0.1", name="localhost") as hub:
        assert hub.endpoint.startswith("http://localhost:")
        location = httpx.head(url(hub, SHARD)).headers["location"]
        assert location.startswith(f"{hub.cdn}/")
        assert httpx.get(location).content == (model / SHARD).read_bytes()


def test_head_of_an_lfs_file(hub: Hub, model: Path) -> None:
    """A redirect to another origin that carries size, digest and commit itself."""
    answer = httpx.head(url(hub, SHARD))
    content = (model / SHARD).read_bytes()
    assert answer.status_code == 302
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["X-Linked-Etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["X-Linked-Size"] == str(len(content))
    assert answer.headers["Location"].startswith(hub.cdn)
    assert not [name for name in answer.headers if "xet" in name.lower()]


def test_head_of_a_small_file_by_branch(hub: Hub, model: Path) -> None:
    """A redirect on the hub itself, relative, to the contents under the commit."""
    answer = httpx.head(url(hub, "config.json"))
    assert answer.status_code == 307
    assert answer.headers["Location"].startswith("/api/resolve-cache/")
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["X-Linked-Etag"] == f'"{git_object(model / "config.json")}"'


def test_head_of_a_small_file_by_commit(hub: Hub, model: Path) -> None:
    answer = httpx.head(url(hub, "config.json", commit_of(hub)))
    assert answer.status_code == 200
    assert answer.headers["ETag"] == f'"{git_object(model / "config.json")}"'
    assert answer.headers["Content-Length"] == str((model / "config.json").stat().st_size)
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.content == b""


@pytest.mark.parametrize("path", [SHARD, "config.json"])
def test_the_client_reads_the_metadata(hub: Hub, model: Path, path: str) -> None:
    """get_hf_file_metadata finds commit, ETag and size where it looks for them."""
    metadata = get_hf_file_metadata(url(hub, path), token=False)
    content = (model / path).read_bytes()
    expected = hashlib.sha256(content).hexdigest() if path == SHARD else git_object(model / path)
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit_of(hub), expected, len(content))
    assert metadata.xet_file_data is None


@pytest.mark.parametrize(
    ("header", "status", "span"),
    [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=100-", 206, (100, None)),
        ("bytes=-7", 206, (-7, None)),
        ("bytes=5-99999999", 206, (5, None)),
        ("lines=1-2", 200, (0, None)),
        ("bytes=", 200, (0, None)),
    ],
)
def test_ranges(hub: Hub, model: Path, header: str, status: int, span: tuple[int, int | None]) -> None:
    """RFC 9110, 14.1.2: first-last, from-to-end, the last N; what is no range is ignored."""
    content = (model / SHARD).read_bytes()
    answer = httpx.get(url(hub, SHARD), headers={"Range": header}, follow_redirects=True)
    wanted = content[span[0] : span[1]]
    assert (answer.status_code, answer.content) == (status, wanted)
    if status == 206:
        start = span[0] % len(content)
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(content)}"


def test_a_range_behind_the_end(hub: Hub, model: Path) -> None:
    size = (model / SHARD).stat().st_size
    answer = httpx.get(url(hub, SHARD), headers={"Range": f"bytes={size}-"}, follow_redirects=True)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_a_range_of_something_that_changed(hub: Hub, model: Path) -> None:
    """If-Range with another ETag gives the whole."""
    headers = {"Range": "bytes=5-", "If-Range": '"another"'}
    answer = httpx.get(url(hub, SHARD), headers=headers, follow_redirects=True)
    assert (answer.status_code, len(answer.content)) == (200, (model / SHARD).stat().st_size)


def test_not_modified(hub: Hub) -> None:
    """If-None-Match with the ETag of what is there gives 304 and no body."""
    at = url(hub, "config.json", commit_of(hub))
    etag = httpx.get(at).headers["ETag"]
    answer = httpx.get(at, headers={"If-None-Match": f'"x", {etag}'})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert httpx.get(at, headers={"If-None-Match": '"x"'}).status_code == 200


def test_the_cdn_takes_signed_addresses_alone(hub: Hub) -> None:
    """Without the signature 403; with a hub token beside it 400, as S3 answers two ways of signing in at once."""
    signed = httpx.head(url(hub, SHARD)).headers["Location"]
    assert httpx.head(signed).status_code == 200
    assert httpx.head(signed.partition("?")[0]).status_code == 403
    assert httpx.head(signed[:-1] + ("0" if signed[-1] != "0" else "1")).status_code == 403
    assert httpx.head(signed, headers={"Authorization": "Bearer x"}).status_code == 400


def test_model_info(hub: Hub, api: HfApi) -> None:
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.sha, info.private, info.gated) == (REPO, commit_of(hub), False, False)
    lfs = {sibling.rfilename: sibling.lfs for sibling in info.siblings}
    assert lfs[SHARD] is not None
    assert lfs["config.json"] is None


def test_the_tree_comes_in_pages(hub: Hub, api: HfApi, model: Path) -> None:
    """Three entries a page: the client follows the Link headers to the end."""
    tree = list(api.list_repo_tree(REPO, recursive=True))
    assert {entry.path for entry in tree} == {path.relative_to(model).as_posix() for path in model.rglob("*")}
    pages = [served for served in hub.served if "/tree/" in served.path]
    assert len(pages) == -(-len(tree) // 3)
    shard = next(entry for entry in tree if entry.path == SHARD)
    content = (model / SHARD).read_bytes()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\n"
    pointer += f"size {len(content)}\n"
    (model.parent / "pointer").write_text(pointer)
    assert (shard.lfs.sha256, shard.lfs.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (shard.blob_id, shard.lfs.pointer_size) == (git_object(model.parent / "pointer"), len(pointer))


def test_the_tree_of_one_folder(api: HfApi) -> None:
    assert {entry.path for entry in api.list_repo_tree(REPO, "original")} == {
        "original/consolidated.00.pth",
        "original/params.json",
    }
    assert "original/params.json" not in {entry.path for entry in api.list_repo_tree(REPO)}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nowhere"))


def test_references(hub: Hub, api: HfApi, model: Path) -> None:
    old = commit_of(hub)
    hub.repositories.tag(REPO, "v1", old)
    (model / "config.json").write_text("{}")
    new = hub.repositories.publish(REPO, model)
    refs = api.list_repo_refs(REPO)
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.branches] == [("main", "refs/heads/main", new)]
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1", "refs/tags/v1", old)]
    assert [api.model_info(REPO, revision=name).sha for name in ("main", "v1", new[:8])] == [new, old, new]


@pytest.mark.parametrize(
    ("token", "gated", "private", "status", "code", "error"),
    [
        (None, "manual", False, 401, "GatedRepo", GatedRepoError),
        ("hf_other", "manual", False, 403, "GatedRepo", GatedRepoError),
        (None, False, True, 401, "RepoNotFound", RepositoryNotFoundError),
        ("hf_other", False, True, 404, "RepoNotFound", RepositoryNotFoundError),
        ("hf_unknown", False, False, 401, None, HfHubHTTPError),
    ],
)
def test_who_may_not_read(
    hub: Hub, token: str | None, gated: str | bool, private: bool, status: int, code: str | None, error: type[Exception]
) -> None:
    """Codes and X-Error-Code, and the exception that the client makes of them, for contents and for the access check."""
    hub.repositories.protect(REPO, gated=gated, private=private)
    hub.repositories.add_token("hf_other")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(url(hub, "config.json"), headers=headers)
    assert (answer.status_code, answer.headers.get("X-Error-Code")) == (status, code)
    assert answer.json()["error"] == answer.headers["X-Error-Message"]
    for ask in (
        lambda: HfApi(endpoint=hub.endpoint, token=token or False).auth_check(REPO),
        lambda: get_hf_file_metadata(url(hub, "config.json"), token=token or False),
    ):
        with pytest.raises(error) as failure:
            ask()
        assert type(failure.value) is error


def test_a_gate_is_open_to_readers_and_its_listing_to_all(hub: Hub, api: HfApi) -> None:
    """The public hub shows what is in a gated repository, and gives the files to those who were granted access."""
    hub.repositories.protect(REPO, gated="auto")
    hub.repositories.grant(REPO, TOKEN)
    assert api.model_info(REPO).gated == "auto"
    assert list(api.list_repo_tree(REPO))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(url(hub, SHARD), headers=headers, follow_redirects=True).status_code == 200


def test_what_is_not_there(hub: Hub, api: HfApi) -> None:
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v9")
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(url(hub, "nothing.json"), token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/nothing")
    assert httpx.get(f"{hub.endpoint}/favicon.ico").status_code == 404


def test_a_whole_snapshot(hub: Hub, model: Path, tmp_path: Path) -> None:
    """The client's own snapshot_download brings every file, bit for bit."""
    folder = Path(snapshot_download(REPO, endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache"))
    names = [path.relative_to(model) for path in model.rglob("*") if path.is_file()]
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == set(names)
    assert all((folder / name).read_bytes() == (model / name).read_bytes() for name in names)


def test_an_unchanged_file_of_a_moved_branch_is_not_sent_again(hub: Hub, model: Path, tmp_path: Path) -> None:
    """The client recognizes by its ETag what it has from another commit."""

    def fetch() -> Path:
        return Path(hf_hub_download(REPO, SHARD, endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache"))

    first = fetch()
    (model / "config.json").write_text("{}")
    new = hub.repositories.publish(REPO, model)
    second = fetch()
    assert (first.parent.name, second.parent.name) != (new, first.parent.name)
    assert second.parent.name == new
    assert len([served for served in hub.served if served.origin == "cdn" and served.sent]) == 1


def test_the_client_goes_on_after_a_cut(hub: Hub, model: Path, tmp_path: Path) -> None:
    """huggingface_hub's own download resumes by Range when the connection breaks."""
    hub.faults.add(Fault(match=r"^/lfs/", times=1, cut_after=150_000))
    path = hf_hub_download(REPO, SHARD, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "out")
    assert Path(path).read_bytes() == (model / SHARD).read_bytes()
    assert next(served.sent for served in hub.served if served.origin == "cdn") == 150_000


def test_faults(hub: Hub) -> None:
    """A code with Retry-After, so many times; a changed byte; a share of requests."""
    with httpx.Client() as client:
        at = url(hub, "config.json", commit_of(hub))
        whole = client.get(at).content
        hub.faults.add(Fault(match=r"config\.json", times=2, status=429, retry_after=7))
        answers = [client.get(at) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [429, 429, 200]
        assert answers[0].headers["Retry-After"] == "7"
        hub.faults.clear()
        hub.faults.add(Fault(match=r"config\.json", flip=3, times=1))
        damaged = client.get(at).content
        assert [place for place in range(len(whole)) if whole[place] != damaged[place]] == [3]
        hub.faults.add(Fault(match=r"config\.json", status=500, probability=0.5))
        assert {client.get(at).status_code for _ in range(40)} == {200, 500}


def test_commits_are_named_by_their_contents(tmp_path: Path, model: Path) -> None:
    """The same files give the same commit in another place, and another one when a byte differs."""
    names = [Repositories(tmp_path / place).publish(REPO, model) for place in ("a", "b")]
    (model / "config.json").write_text("{}")
    names.append(Repositories(tmp_path / "c").publish(REPO, model))
    assert names[0] == names[1] != names[2]
    assert all(len(name) == 40 for name in names)
    again = Repositories(tmp_path / "c")
    assert again.publish(REPO, model) == names[2]
    assert len(again.find(REPO).commits) == 1


def test_the_command_serves_until_it_is_stopped(tmp_path: Path, model: Path) -> None:
    """`python -m infra.hub` says where it is, answers, and ends well on SIGTERM."""
    argv = [sys.executable, "-m", "infra.hub", "--root", str(tmp_path / "root"), "--publish", f"{REPO}={model}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            endpoint = process.stdout.readline().strip()
            assert HfApi(endpoint=endpoint, token=False).model_info(REPO).id == REPO
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
