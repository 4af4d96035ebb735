"""A look at watched models through a real store, a real registry and the local hub: what is asked, and what is seen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import close_session

from containers.digest import Digest
from containers.oci.access import open_repository
from containers.oci.reference import Reference
from containers.oci.repository import Blob
from containers.oci.types import MANIFEST, Descriptor, ImageConfig, ImageManifest, RootFs
from containers.store import Store
from containers.trust import signing
from flows.local import embedded
from flows.runtime import location
from flows.watching import records
from flows.watching.changes import tools_now
from flows.watching.models import WatchedModel
from flows.watching.records import ShipRecord
from flows.watching.scan import ModelState, base_digest, scan
from infra.hub import Fault, Hub, Repositories
from infra.settings import Settings, TrustSettings
from tests.support.local_registry import LocalRegistry
from tests.support.trust_world import KEYS, signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

FILES = {"README.md": "a model", "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights"}
REPO = "org/one"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """Settings with a store that is up, and a registry."""
    folder = tmp_path_factory.mktemp("services")
    settings = Settings(home=folder / "home")
    with embedded.store(settings) as started, LocalRegistry(folder / "registry") as registry:
        yield started, registry


@dataclass
class World:
    folder: Path
    settings: Settings
    store: Store
    hub: Hub
    registry: str
    lines: list[WatchedModel] = field(default_factory=list)

    def publish(self, repo: str = REPO, **changed: str) -> str:
        """A commit of a model with these files changed; names take _ for a dot."""
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        for name, text in {**FILES, **{name.replace("_", "."): text for name, text in changed.items()}}.items():
            (model / name).write_text(text)
        return self.hub.repositories.publish(repo, model)

    def image(self, place: str, tag: str, content: bytes = b"layer", **annotations: str) -> Digest:
        """A small image in the registry."""
        with open_repository(Reference.parse(f"{self.registry}/{place}"), self.settings, write=True) as repository:
            config = ImageConfig(architecture="amd64", os="linux", rootfs=RootFs(diff_ids=(Digest.of(content),)))
            blobs = [Blob.of(config.encode()), Blob.of(content)]
            digests = [repository.put_blob(blob, lambda _: None) for blob in blobs]
            manifest = ImageManifest(
                config=Descriptor(
                    media_type="application/vnd.oci.image.config.v1+json", digest=digests[0], size=blobs[0].size
                ),
                layers=(
                    Descriptor(
                        media_type="application/vnd.oci.image.layer.v1.tar", digest=digests[1], size=blobs[1].size
                    ),
                ),
                annotations=annotations,
            )
            return repository.put(manifest.encode(), MANIFEST, tag)

    def line(self, **news: Any) -> WatchedModel:
        values = {"name": "one", "model": f"hf://{REPO}", "targets": (f"{self.registry}/{self.folder.name}/one",)}
        self.lines = [WatchedModel.model_validate(values | news)]
        return self.lines[0]

    def shipped(self, commit: str, **news: Any) -> ShipRecord:
        """As if the first line had been shipped: the record, and the tag in the registry."""
        line = self.lines[0]
        place = line.targets[0].partition("/")[2]
        digest = self.image(place, commit[:12], content=commit.encode())
        values: dict[str, Any] = {
            "model": line.model, "scheme": line.recipe.scheme, "to": line.targets[0], "suite": line.suite,
            "commit": commit, "revision": "main", "reference": f"{line.targets[0]}@{digest}", "digest": digest,
            "tags": (commit[:12],), "decision": "pass", "measures": {}, "base": line.base,
            "base_digest": "", "tools": tools_now(line.suite), "shipped": datetime.now(UTC), "run": "run",
        }  # fmt: skip
        record = ShipRecord.model_validate(values | news)
        records.write_shipped(self.store, record)
        return record

    def scan(self) -> ModelState:
        (seen,) = scan(self.lines, self.settings, self.store)
        return seen

    def asked(self) -> list[tuple[str, int]]:
        """Requests to the hub's API about models since the last call."""
        served = [(one.path, one.status) for one in self.hub.served if one.path.startswith("/api/models/")]
        new, self._before = served[getattr(self, "_before", 0) :], len(served)
        return new


@pytest.fixture
def world(tmp_path: Path, up: tuple[Settings, str]) -> Iterator[World]:
    started, registry = up
    prefix = tmp_path.name.replace("_", "-")
    with Hub(Repositories(tmp_path / "hub")) as hub:
        store = started.store.model_copy(update={"prefix": prefix})
        settings = started.model_copy(update={"store": store, "hub_endpoint": hub.endpoint})
        yield World(tmp_path, settings, Store.open(location(settings), store), hub, registry)


def test_nothing_changed_costs_one_request_without_a_body(world: World) -> None:
    commit = world.publish()
    world.line()
    world.shipped(commit)
    assert world.scan().changes == ()
    world.asked()
    again = world.scan()
    assert (again.changes, again.commit, again.problem) == ((), commit, "")
    assert [status for _, status in world.asked()] == [304]


def test_new_weights_are_a_change_of_all_steps(world: World) -> None:
    first = world.publish()
    world.line()
    world.shipped(first)
    second = world.publish(model_safetensors="other weights")
    seen = world.scan()
    assert [str(change) for change in seen.changes] == [f"revision {first[:12]} -> {second[:12]} (model.safetensors)"]
    assert seen.reruns[0] == "download"
    assert seen.wanted is not None
    assert seen.wanted.request(seen.entry, seen.reason).dump()["revision"] == second


def test_a_change_of_the_readme_alone_is_said_and_no_change(world: World) -> None:
    first = world.publish()
    world.line()
    world.shipped(first)
    world.publish(README_md="new words")
    seen = world.scan()
    assert seen.changes == ()
    assert seen.notes == (f"only README.md changed since {first[:12]}: not rebuilt",)
    world.asked()
    assert world.scan().notes == seen.notes
    assert [status for _, status in world.asked()] == [304]  # what differs between two commits is asked once


def test_a_branch_that_was_forced_is_a_change_that_says_so(world: World) -> None:
    first = world.publish()
    world.line()
    other = world.publish("org/other", config_json='{"other": 1}')
    third = world.publish(model_safetensors="third")
    world.shipped(third)
    world.hub.repositories.move_branch(REPO, "main", first)
    assert "the history was rewritten" in str(world.scan().changes[0])
    world.shipped(other)  # a commit that the hub does not have (any more)
    assert "gone from the hub: the history was rewritten" in str(world.scan().changes[0])


def test_the_newest_tag_that_fits_counts(world: World) -> None:
    first = world.publish()
    world.hub.repositories.tag(REPO, "v1.9", first)
    world.line(revision={"tag": "v*"})
    world.shipped(first)
    second = world.publish(model_safetensors="second")
    assert world.scan().changes == ()
    world.hub.repositories.tag(REPO, "v1.10", second)
    assert world.scan().commit == second
    world.line(revision={"tag": "w*"})
    assert world.scan().problem == "org/one has no tag that matches 'w*' (its tags: v1.10, v1.9)"


def test_a_pinned_commit_never_moves(world: World) -> None:
    first = world.publish()
    world.line(revision={"commit": first})
    world.shipped(first)
    world.publish(model_safetensors="second")
    assert world.scan().changes == ()


def test_a_model_that_was_removed_or_gated_is_a_problem_and_no_rebuild(world: World) -> None:
    first = world.publish()
    world.line()
    world.shipped(first)
    world.publish(model_safetensors="second")
    world.hub.repositories.protect(REPO, gated="manual")
    gated = world.scan()
    assert "org/one is gated" in gated.problem
    world.hub.repositories.protect(REPO, private=True)
    removed = world.scan()
    assert "no longer at" in removed.problem
    assert (gated.changes, removed.changes, removed.temporary) == ((), (), False)


def test_a_gated_model_that_did_not_change_is_no_problem(world: World) -> None:
    first = world.publish()
    world.line()
    world.shipped(first)
    world.hub.repositories.protect(REPO, gated="auto")
    assert (world.scan().problem, world.scan().notes) == ("", ("gated",))


def test_a_hub_that_is_down_is_asked_a_few_times_and_the_last_state_stays(world: World) -> None:
    first = world.publish()
    line = world.line()
    world.shipped(first)
    world.scan()
    kept = records.read_hub_answers(world.store)
    nowhere = world.hub.endpoint
    world.hub.__exit__(None, None, None)
    close_session()  # a connection that is open would be answered still
    world.lines = [line, *(WatchedModel(name=f"l{n}", model=f"hf://org/l{n}", targets=("oci:x",)) for n in range(12))]
    seen = scan(world.lines, world.settings, world.store)
    assert all("the hub does not answer" in one.problem and one.temporary for one in seen)
    assert (seen[0].commit, seen[0].changes) == (first, ())
    assert records.read_hub_answers(world.store) == kept
    with Hub(world.hub.repositories, port=int(nowhere.rpartition(":")[2])) as world.hub:
        assert scan(world.lines[:1], world.settings, world.store)[0].problem == ""
        assert [one.status for one in world.hub.served if "/api/models/" in one.path] == [304]


def test_a_hub_that_asks_for_patience_gets_it(world: World) -> None:
    commit = world.publish()
    world.line()
    world.shipped(commit)
    world.hub.faults.add(Fault("/api/models/", times=2, status=429, retry_after=1))
    started = time.monotonic()
    assert world.scan().problem == ""
    assert time.monotonic() - started >= 2
    world.hub.faults.add(Fault("/api/models/", status=429, retry_after=3600))
    assert "asks clients to wait 3600 s" in world.scan().problem


def test_an_error_of_one_model_is_not_one_of_the_others(world: World) -> None:
    world.publish()
    world.publish("org/two")
    world.line()
    world.lines.append(WatchedModel(name="two", model="hf://org/two", targets=("oci:x",)))
    world.hub.faults.add(Fault("/org/two/", status=500))
    one, two = scan(world.lines, world.settings, world.store)
    assert one.problem == ""
    assert "500" in two.problem


def test_a_base_image_that_moved_is_pushed_and_measured_again(world: World) -> None:
    commit = world.publish()
    before = world.image("base", "9", b"before")
    world.line(base=f"{world.registry}/base:9")
    world.shipped(commit, base_digest=str(before))
    assert world.scan().changes == ()
    after = world.image("base", "9", b"after")
    seen = world.scan()
    assert [str(change) for change in seen.changes] == [f"base image {before.short} -> {after.short}"]
    assert seen.reruns == ("push", "deploy", "evaluate")
    assert seen.wanted is not None
    assert seen.wanted.base == f"{world.registry}/base@{after}"


def test_a_registry_without_the_tag_of_the_base_is_a_problem(world: World) -> None:
    world.publish()
    world.line(base=f"{world.registry}/base:none")
    seen = world.scan()
    assert "has no tag or digest none" in seen.problem
    assert seen.changes == ()


def test_a_base_image_must_pass_the_policy(world: World, tmp_path: Path) -> None:
    """Nothing is rebuilt on one that nobody signed who is trusted for it."""
    (tmp_path / "k.pub").write_text((KEYS / "carwright.pub").read_text())
    (tmp_path / "policy.yaml").write_text(
        f"keys: [{{name: k, file: k.pub}}]\nbase_images: [{{repository: '{world.registry}/*', keys: [k]}}]\n"
    )
    world.settings = world.settings.model_copy(update={"trust": TrustSettings(policy=tmp_path / "policy.yaml")})
    commit = world.publish()
    before = world.image("signed", "9", b"before")
    world.line(base=f"{world.registry}/signed:9")
    world.shipped(commit, base_digest=str(before))
    after = world.image("signed", "9", b"after")
    seen = world.scan()
    assert "is signed by none of k (nothing signed is attached to it)" in seen.problem
    assert seen.changes == ()
    with open_repository(f"{world.registry}/signed@{after}", world.settings, write=True) as repository:
        signing.sign(repository, after, (), [signer()])
    assert [str(change) for change in world.scan().changes] == [f"base image {before.short} -> {after.short}"]


def test_a_shipped_tag_that_is_gone_is_put_back(world: World) -> None:
    commit = world.publish()
    line = world.line()
    record = world.shipped(commit)
    with open_repository(Reference.parse(line.targets[0]), world.settings, write=True) as repository:
        repository.delete(record.digest)
    seen = world.scan()
    assert [(change.kind, change.reruns[0]) for change in seen.changes] == [("image", "push")]
    assert seen.wanted is not None
    assert seen.wanted.repair


def test_a_shipped_tag_that_somebody_moved_is_told_and_left_alone(world: World) -> None:
    commit = world.publish()
    line = world.line()
    world.shipped(commit)
    other = world.image(line.targets[0].partition("/")[2], commit[:12], b"of somebody else")
    seen = world.scan()
    assert seen.changes == ()
    assert seen.notes == (f"{line.targets[0]}:{commit[:12]} was moved to {other.short}, not by Carwright",)


def test_the_base_of_a_modelcar_is_read_from_the_modelcar(world: World) -> None:
    base = Digest.of(b"base")
    name = {"org.opencontainers.image.base.name": f"quay.io/org/base@{base}"}
    digest = world.image("car", "1", b"car", **name)
    assert base_digest(f"{world.registry}/car@{digest}", world.settings) == str(base)
    digest = world.image("car", "2", b"car", **{"org.opencontainers.image.base.name": "busybox"})
    assert base_digest(f"{world.registry}/car@{digest}", world.settings) == ""
