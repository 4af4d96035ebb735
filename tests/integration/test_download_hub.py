"""The download step against a hub on loopback, through huggingface_hub's real client, into the real store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from containers.digest import Digest
from containers.download import partial_file, retries
from containers.download.partial_file import PartialFile
from containers.errors import BadInput, DiskFull, Temporary
from containers.events import Event
from containers.fingerprints import fingerprint_inputs
from containers.process import Child
from infra.hub import Fault, Hub, Repositories
from tests.support.download_world import REPO, TAKEN, World, checkpoint, safetensors
from tests.support.processes import descendants
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.contract import StepRequest
    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration

SOURCE = f"hf://{REPO}"
TOKEN = "hf_thisTokenMustNotBeWrittenAnywhere"


@pytest.fixture
def world(server: StoreSettings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A hub with the repository acme/tiny, and a bucket of the test's own."""
    repositories = Repositories(tmp_path / "hub")
    repositories.publish(REPO, checkpoint(tmp_path / "model"))
    bucket = "t" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:20]
    with Hub(repositories) as hub:
        yield World(tmp_path / "home", server.model_copy(update={"bucket": bucket}), hub)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a hundredth of a second between attempts unless the hub asks for more."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)


def cdn(hub: Hub) -> list[tuple[str | None, int]]:
    """Range header and bytes of the body of each request for contents in LFS."""
    return [(served.range, served.sent) for served in hub.served if served.origin == "cdn"]


def start(world: World, request: StepRequest, folder: Path) -> Child:
    """The step as a process, as the launcher starts it."""
    (folder / "request.json").write_text(request.model_dump_json())
    argv = [sys.executable, "-m", "containers.download", "--request", str(folder / "request.json")]
    return Child([*argv, "--result", str(folder / "result.json")], world.environment, cwd=Path(__file__).parents[2])


def wait_for(look: Callable[[], list[Path]], child: Child) -> list[Path]:
    """What a running step has written."""

    def found() -> list[Path]:
        assert child.poll() is None, child.tail
        return look()

    return until(found, "bytes move")


def test_a_checkpoint_arrives_whole(world: World, tmp_path: Path) -> None:
    """Every file that belongs to a checkpoint is in the store under its path, bit for bit, and nothing else."""
    resolved = world.resolve(SOURCE)
    commit = world.hub.repositories.find(REPO).branches["main"]
    assert (resolved.commit, resolved.revision) == (commit, "main")
    assert re.fullmatch(rf"{SOURCE}@{commit}#sha256:[0-9a-f]{{64}}", resolved.pinned), (
        "a mirror: the listing pins it, too"
    )

    result = world.run(world.request("download", resolved.pinned, revision="main"))

    manifest = world.manifest(result)
    assert [entry.path for entry in manifest.files] == TAKEN
    assert resolved.files == len(TAKEN)
    assert resolved.size == manifest.size == sum((tmp_path / "model" / path).stat().st_size for path in TAKEN)
    world.store.materialize(manifest.ref, tmp_path / "out")
    for path in TAKEN:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "model" / path).read_bytes()
    assert manifest.metadata["commit"] == commit
    assert manifest.metadata["revision"] == "main"
    assert manifest.metadata["license"] == "apache-2.0"
    assert result.metrics["bytes_stored"] == manifest.size
    assert not list((world.home / "partial").iterdir())


def test_what_is_left_out_is_said(world: World) -> None:
    """Pickles and code are named with a reason."""
    result = world.download(SOURCE)
    said = [event.message for event in world.events]
    assert "skipped original/consolidated.00.pth (a pickle)" in said
    assert "skipped modeling_tiny.py (code; Carwright runs none that comes with a model)" in said
    assert result.metrics["skipped"] == 2
    assert not any(".gitattributes" in message for message in said)


def test_each_byte_is_fetched_once(world: World) -> None:
    """One request a shard for its header, one for its contents; no HEAD for each: the listing says all that is needed."""
    result = world.download(SOURCE)
    bodies = [sent for wanted, sent in cdn(world.hub) if wanted is None]
    shards = [entry.size for entry in world.manifest(result).files if entry.path.endswith(".safetensors")]
    assert sorted(bodies) == sorted(shards)
    heads = {served.path for served in world.hub.served if served.method == "HEAD"}
    assert len(heads) == 1  # whether the contents may be read at all
    assert result.metrics["bytes_read"] == world.manifest(result).size


def test_a_second_download_asks_nobody(world: World) -> None:
    """An artifact that is in the store is answered without the hub."""
    first = world.download(SOURCE)
    pinned = first.values["pinned"]
    before = len(world.hub.served)
    second = world.run(world.request("download", str(pinned)))
    assert second.outputs == first.outputs
    assert second.metrics["bytes_read"] == 0
    assert len(world.hub.served) == before


def test_progress_ends_at_the_total(world: World) -> None:
    """The last progress line carries all bytes."""
    result = world.download(SOURCE)
    last = [event for event in world.events if event.event == "progress"][-1]
    assert (last.done, last.total, last.unit) == (world.manifest(result).size, world.manifest(result).size, "B")


def test_a_moved_branch_is_another_checkpoint(world: World, tmp_path: Path) -> None:
    """main at two times gives two commits; shards that did not change are not fetched again."""
    first = world.download(SOURCE)
    checkpoint(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    commit = world.hub.repositories.publish(REPO, tmp_path / "model")
    before = len(cdn(world.hub))

    second = world.download(SOURCE)

    assert second.values["commit"] == commit != first.values["commit"]
    assert second.outputs["checkpoint"].digest != first.outputs["checkpoint"].digest
    assert [wanted for wanted, _ in cdn(world.hub)[before:] if wanted is None] == []  # headers alone


def test_a_pinned_commit_stays_what_it_was(world: World, tmp_path: Path) -> None:
    """After the branch has moved the old commit still gives the old files."""
    pinned = world.resolve(SOURCE).pinned
    old = (tmp_path / "model" / "config.json").read_bytes()
    (tmp_path / "model" / "config.json").write_text("{}")
    world.hub.repositories.publish(REPO, tmp_path / "model")
    manifest = world.manifest(world.run(world.request("download", pinned)))
    config = next(entry for entry in manifest.files if entry.path == "config.json")
    assert config.sha256 == Digest.of(old)


@pytest.mark.parametrize("revision", ["v1", "refs/tags/v1", "feature/x"])
def test_any_revision_resolves_to_its_commit(world: World, tmp_path: Path, revision: str) -> None:
    """Tags, full references and branches with a slash in their name."""
    commit = world.hub.repositories.find(REPO).branches["main"]
    world.hub.repositories.tag(REPO, "v1", commit)
    world.hub.repositories.move_branch(REPO, "feature/x", commit)
    (tmp_path / "model" / "config.json").write_text("{}")
    world.hub.repositories.publish(REPO, tmp_path / "model")
    resolved = world.resolve(f"{SOURCE}@{revision}")
    assert (resolved.commit, resolved.revision) == (commit, revision)


def test_a_short_commit_resolves_to_the_whole(world: World) -> None:
    commit = world.hub.repositories.find(REPO).branches["main"]
    assert world.resolve(f"{SOURCE}@{commit[:7]}").commit == commit


def test_a_cut_connection_goes_on_by_range(world: World) -> None:
    """After a cut in the middle of a body the rest is asked for, and only the rest."""
    world.hub.faults.add(Fault(match=r"^/lfs/", cut_after=150_000))
    result = world.download(SOURCE, parallel=1)
    shards = [entry.size for entry in world.manifest(result).files if entry.path.endswith(".safetensors")]
    assert (f"bytes=150000-{shards[0] - 1}", shards[0] - 150_000) in cdn(world.hub)
    assert result.metrics["bytes_read"] == world.manifest(result).size


def test_a_source_that_ignores_ranges_starts_again(world: World) -> None:
    """A 200 where a 206 was asked for replaces what was there instead of being appended to it."""
    world.hub.faults.add(Fault(match=r"^/lfs/", times=3, cut_after=150_000, whole=True))
    world.hub.faults.add(Fault(match=r"^/lfs/", whole=True))
    result = world.download(SOURCE, parallel=1)
    shards = [entry.size for entry in world.manifest(result).files if entry.path.endswith(".safetensors")]
    assert (f"bytes=150000-{shards[0] - 1}", shards[0]) in cdn(world.hub)
    assert [entry.path for entry in world.manifest(result).files] == TAKEN


def test_a_killed_download_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    """SIGKILL while bytes are moving; the second run asks for the rest of the file by Range and fetches no byte twice."""
    size = 3_000_000
    (tmp_path / "model" / "model-00002-of-00002.safetensors").write_bytes(
        safetensors({"w1": ("U8", [size], b"\7" * size)})
    )
    world.hub.repositories.publish(REPO, tmp_path / "model")
    pinned = world.resolve(SOURCE).pinned
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=1_500_000))
    request = world.request("download", pinned, parallel=1)
    partial = world.home / "partial"
    with start(world, request, tmp_path) as child:
        found = wait_for(lambda: [p for p in partial.rglob("*.safetensors") if p.stat().st_size > 500_000], child)
        for pid in descendants(child.pid):
            signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
        assert child.wait(30) == 128 + signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    reached = found[0].stat().st_size
    assert 500_000 < reached < size
    world.hub.faults.clear()
    before = len(world.hub.served)

    result = world.run(request)

    whole = (tmp_path / "model" / found[0].name).stat().st_size
    after = [(served.range, served.sent) for served in world.hub.served[before:] if served.origin == "cdn"]
    assert (f"bytes={reached}-{whole - 1}", whole - reached) in after
    assert result.metrics["bytes_read"] < world.manifest(result).size - reached + 1
    assert not list(partial.iterdir())


def test_an_interrupted_download_ends_soon_and_keeps_what_it_has(world: World, tmp_path: Path) -> None:
    """SIGTERM while bytes are moving: exit code 130 within seconds, and the partial files stay for the next run."""
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=100_000))
    request = world.request("download", world.resolve(SOURCE).pinned)
    with start(world, request, tmp_path) as child:
        wait_for(lambda: [p for p in (world.home / "partial").rglob("*.safetensors") if p.stat().st_size], child)
        began = time.monotonic()
        child.stop()
        assert time.monotonic() - began < 9  # the supervisor's patience is 10
    error = Event.parse(child.tail.splitlines()[-1])
    assert (error.event, error.exit_code) == ("error", 130)
    assert list((world.home / "partial").rglob("*.safetensors"))


def test_damage_of_a_killed_run_is_mended(world: World, tmp_path: Path) -> None:
    """A partial file with wrong bytes costs one more fetch and is not stored."""
    pinned = world.resolve(SOURCE).pinned
    request = world.request("download", pinned)
    folder = world.home / "partial" / request.fingerprint(fingerprint_inputs(request.step))
    for name in ("large/model-00001-of-00002.safetensors", "small/tokenizer.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 10)
    manifest = world.manifest(world.run(request))
    world.store.materialize(manifest.ref, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "model" / "tokenizer.json").read_bytes()


def test_damaged_contents_are_refused(world: World) -> None:
    """LFS contents whose sha256 is not the promised one are neither stored nor published."""
    blob = max((world.hub.repositories.root / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BadInput, match=r"is damaged: its bytes do not match the digest from its source"):
        world.download(SOURCE)
    assert not list(world.store.manifests())
    assert not world.store.has_blob(Digest(blob.name), len(content))


def test_a_damaged_small_file_is_refused(world: World, tmp_path: Path) -> None:
    """Files outside LFS are held against git's own digest."""
    content = (tmp_path / "model" / "tokenizer.json").read_bytes()
    blob = world.hub.repositories.blob(hashlib.sha256(content).hexdigest())
    blob.write_bytes(content.replace(b"1", b"2"))
    with pytest.raises(BadInput, match=r"tokenizer\.json is damaged"):
        world.download(SOURCE)
    assert not list(world.store.manifests())


def test_files_come_in_parallel(world: World, tmp_path: Path) -> None:
    """As many at once as was asked for, and no more."""
    checkpoint(tmp_path / "many", shards=8)
    world.hub.repositories.publish("acme/many", tmp_path / "many")
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=2_000_000))
    world.download("hf://acme/many", parallel=3)
    assert world.hub.peak == 3


def test_the_disk_holds_only_what_is_under_way(world: World, tmp_path: Path) -> None:
    """With two files at a time never more than two shards lie on the disk."""
    size = 400_000
    checkpoint(tmp_path / "many", shards=8, size=size)
    world.hub.repositories.publish("acme/many", tmp_path / "many")
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=3_000_000))
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            try:
                most = max(most, sum(path.stat().st_size for path in world.home.rglob("*.safetensors")))
            except FileNotFoundError:  # a file or its folder went while it was looked at: look again
                continue
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        world.download("hf://acme/many", parallel=2)
    finally:
        done.set()
        watcher.join()
    assert 0 < most <= 2 * (size + 200)


def test_a_disk_that_is_too_small_is_noticed_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What will be under way together must fit: two shards of 200 kB and no more."""
    free = 399_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    pinned = world.resolve(SOURCE).pinned
    with pytest.raises(DiskFull, match=r"has 399\.0 kB free, and 400\.2 kB will be downloaded at once"):
        world.run(world.request("download", pinned, parallel=4))
    assert world.run(world.request("download", pinned, parallel=1)).metrics["files"] == len(TAKEN)


def test_what_is_on_the_disk_needs_no_room_a_second_time(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a beginning nor in parts, of another boot of the machine, too: its digest will be checked."""
    request = world.request("download", world.resolve(SOURCE).pinned, parallel=2)
    large = world.home / "partial" / request.fingerprint(fingerprint_inputs(request.step)) / "large"
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    first, second = ((tmp_path / "model" / name).read_bytes() for name in names)
    with PartialFile(large / names[0], len(first), part=100_000) as left:
        left.parts[0].write(first[:100_000])
        left.parts[1].write(first[100_000:150_000])
        left.parts[1].note()
    (large / names[1]).write_bytes(second[:50_000])
    monkeypatch.setattr(partial_file, "_boot", lambda: "another")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(first) + len(second) - 200_000))
    result = world.run(request)
    assert result.metrics["bytes_read"] == world.manifest(result).size - 200_000


def test_busy_hubs_are_asked_again(world: World) -> None:
    """429 with Retry-After and a few 500s do not fail a download."""
    world.hub.faults.add(
        Fault(match=r"^/api/models/acme/tiny/revision/|^/api/models/acme/tiny$", times=1, status=429, retry_after=1)
    )
    world.hub.faults.add(Fault(match=r"config\.json", times=2, status=500))
    world.hub.faults.add(Fault(match=r"^/lfs/", times=2, status=503))
    started = time.monotonic()
    result = world.download(SOURCE)
    assert time.monotonic() - started >= 1  # the hub asked for a second
    assert [entry.path for entry in world.manifest(result).files] == TAKEN


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_stays_busy_is_temporary(world: World, status: int) -> None:
    """After a few attempts the step gives up with the code that is retried later."""
    world.hub.faults.add(Fault(match=r"^/lfs/", status=status))
    with pytest.raises(Temporary, match=f"busy or failing \\({status}") as failure:
        world.download(SOURCE)
    assert failure.value.exit_code == 75
    asked = [served for served in world.hub.served if served.status == status]
    assert len(asked) <= 2 * retries.ATTEMPTS  # two shards


def test_a_hub_that_is_not_there_is_temporary(world: World) -> None:
    """Nothing listens on port 1."""
    world.hub = None
    with pytest.raises(Temporary, match=r"the hub does not answer \(http://127\.0\.0\.1:1\)"):
        world.resolve(SOURCE)


def test_something_else_than_a_hub_is_refused(world: World) -> None:
    """The CDN's port answers, and not as a hub does."""
    world.hub.endpoint = world.hub.cdn
    with pytest.raises(BadInput, match="refuses"):
        world.resolve(SOURCE)


def test_a_model_that_does_not_exist(world: World) -> None:
    with pytest.raises(BadInput, match=r"there is no model acme/nothing at http://127\.0\.0\.1:\d+, or it is private"):
        world.resolve("hf://acme/nothing")


def test_a_model_that_does_not_exist_with_a_token(world: World) -> None:
    """With a token the hub says 404 where it says 401 without."""
    world.hub.repositories.add_token(TOKEN)
    world.token = SecretStr(TOKEN)
    with pytest.raises(BadInput, match="there is no model acme/nothing"):
        world.resolve("hf://acme/nothing")
    until_served(world, 404)


def test_a_revision_that_does_not_exist(world: World) -> None:
    with pytest.raises(BadInput, match="acme/tiny has no revision 'v9'"):
        world.resolve(f"{SOURCE}@v9")


def test_a_gated_model_without_a_token(world: World) -> None:
    world.hub.repositories.protect(REPO, gated="manual")
    with pytest.raises(BadInput, match="acme/tiny is gated, and no token was given") as failure:
        world.resolve(SOURCE)
    assert "set HF_TOKEN" in failure.value.remedy
    until_served(world, 401)


def until_served(world: World, status: int) -> None:
    """The hub's last answer is that one; it is recorded a moment after the client has it."""
    until(lambda: world.hub.served and world.hub.served[-1].status == status, lambda: world.hub.served)


def test_a_gated_model_without_access(world: World) -> None:
    world.hub.repositories.protect(REPO, gated="manual")
    world.hub.repositories.add_token(TOKEN)
    world.token = SecretStr(TOKEN)
    with pytest.raises(BadInput, match="the owner of this token has no access") as failure:
        world.resolve(SOURCE)
    assert f"{world.hub.endpoint}/{REPO}" in failure.value.remedy
    until_served(world, 403)


def test_a_private_model(world: World) -> None:
    """Without its token it looks as if it did not exist; with it all is well."""
    world.hub.repositories.protect(REPO, private=True)
    with pytest.raises(BadInput, match="or it is private"):
        world.resolve(SOURCE)
    world.hub.repositories.grant(REPO, TOKEN)
    world.token = SecretStr(TOKEN)
    assert world.resolve(SOURCE).files == len(TAKEN)


def test_a_token_that_nobody_knows(world: World) -> None:
    world.token = SecretStr("hf_expired")
    with pytest.raises(BadInput, match="the hub rejects this token"):
        world.resolve(SOURCE)


def test_the_token_file_of_the_hubs_client_works(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `hf auth login` left is used when no token is set."""
    world.hub.repositories.protect(REPO, gated="auto")
    world.hub.repositories.grant(REPO, TOKEN)
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert world.download(SOURCE).metrics["files"] == len(TAKEN)


def test_the_token_is_written_nowhere_and_never_leaves_the_hub(world: World, tmp_path: Path) -> None:
    """A gated model with a token, failures on the way: no file, line, request, result or manifest has the token."""
    world.hub.repositories.protect(REPO, gated="auto")
    world.hub.repositories.grant(REPO, TOKEN)
    world.token = SecretStr(TOKEN)
    world.hub.faults.add(Fault(match=r"^/lfs/", times=2, status=500))
    world.hub.faults.add(Fault(match=r"^/lfs/", times=1, cut_after=100_000))
    request = world.request("download", world.resolve(SOURCE).pinned)

    result = world.run(request)

    assert all(not served.authorized for served in world.hub.served if served.origin == "cdn")
    assert all(served.authorized for served in world.hub.served if served.origin == "hub")
    world.hub.repositories.protect(REPO, gated="manual")
    world.hub.faults.add(Fault(match=r"/tree/|/acme/tiny$|revision", status=500))
    with pytest.raises(Temporary) as failure:
        world.resolve(SOURCE)
    written = [
        world.said.getvalue(),
        request.model_dump_json(),
        result.model_dump_json(),
        str(failure.value),
        repr(failure.value.__cause__),
        *(manifest.model_dump_json() for manifest in world.store.manifests()),
        *(path.read_text(errors="replace") for path in world.home.rglob("*") if path.is_file()),
    ]
    assert not [text for text in written if TOKEN in text]


def test_pickles_alone_are_refused(world: World, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "old")
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    world.hub.repositories.publish("acme/old", folder)
    with pytest.raises(
        BadInput, match=r"has its weights only as pickles \(original/consolidated\.00\.pth, pytorch_model"
    ):
        world.resolve("hf://acme/old")


def test_a_truncated_shard_is_refused_before_it_is_fetched(world: World, tmp_path: Path) -> None:
    """The header says how long the file should be: a few bytes are enough to know, and nothing is stored."""
    path = tmp_path / "model" / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    world.hub.repositories.publish(REPO, tmp_path / "model")
    with pytest.raises(BadInput, match=r"model-00002-of-00002\.safetensors should have \d+ bytes by its header"):
        world.download(SOURCE)
    assert all(wanted is not None or sent < path.stat().st_size for wanted, sent in cdn(world.hub))
    assert not list(world.store.manifests())
    assert world.store.sweep(lambda: lambda manifest: "", older=timedelta(days=1)).before == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", r"config\.json is not JSON"),
        ("config.json", "[]", r"config\.json is not a JSON object"),
        ("config.json", None, r"has no config\.json"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("model-00001-of-00002.safetensors", None, r"names model-00001-of-00002\.safetensors, which is missing"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    world: World, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    """One message that names the file, and nothing is published."""
    if content is None:
        (tmp_path / "model" / name).unlink()
    else:
        (tmp_path / "model" / name).write_text(content)
    world.hub.repositories.publish(REPO, tmp_path / "model")
    with pytest.raises(BadInput, match=message) as failure:
        world.download(SOURCE)
    assert failure.value.remedy
    assert not list(world.store.manifests())


def test_a_source_that_can_move_is_not_downloaded(world: World) -> None:
    with pytest.raises(BadInput, match="it is not pinned"):
        world.run(world.request("download", f"{SOURCE}@main"))


def test_an_already_quantized_checkpoint_may_be_downloaded(world: World, tmp_path: Path) -> None:
    """Whether it may be quantized again is for quantize to say."""
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    world.hub.repositories.publish(REPO, tmp_path / "model")
    assert world.download(SOURCE).metrics["files"] == len(TAKEN)
