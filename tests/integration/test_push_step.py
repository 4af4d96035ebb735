"""The push step through its own command line: from the store to a layout and a registry, gated and promoted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from containers import in_toto
from containers.contract import ArtifactRef, Kind, Step, StepRequest, StepResult, StoreLocation
from containers.digest import Digest
from containers.oci import referrers
from containers.oci.access import open_repository, resolve
from containers.oci.layer import LayerHasher
from containers.oci.unpack import unpack
from containers.parameters import PromotedImage, PushedImage, PushOptions, PushParameters
from containers.shard_feed import ShardFeed, publish
from containers.store import FileEntry, Manifest, Store
from containers.trust.attach import find_bundles
from containers.trust.policy import Policy
from containers.trust.verify import check
from containers.verdict import Verdict
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry
from tests.support.local_sigstore import LocalSigstore
from tests.support.modelcars import write_checkpoint
from tests.support.registry_double import registry_double
from tests.support.soft_token import PIN, SoftToken
from tests.support.trust_world import KEYS, PASSWORD, policy, statements
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration


@dataclass
class Lab:
    """A store with a checkpoint, and the step's command."""

    folder: Path
    root: Path
    served: StoreSettings
    store: Store
    checkpoint: ArtifactRef
    source: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def location(self) -> StoreLocation:
        return StoreLocation(endpoint=self.served.endpoint, bucket=self.served.bucket)

    def run(self, parameters: PushParameters, options: PushOptions | None = None, **inputs: ArtifactRef) -> Any:
        """The step's exit code, its result (or None) and its events."""
        process = self.start(parameters, options, **inputs)
        _, said = process.communicate()
        result = self.folder / "result.json"
        read = StepResult.model_validate_json(result.read_bytes()) if result.exists() else None
        return process.returncode, read, said

    def start(
        self, parameters: PushParameters, options: PushOptions | None = None, **inputs: ArtifactRef
    ) -> subprocess.Popen[str]:
        """The step, which has begun."""
        request = StepRequest(
            step=Step.PUSH,
            run="test",
            inputs=inputs,
            parameters=parameters.dump(),
            options=(options or PushOptions()).dump(),
            store=self.location,
        )
        (self.folder / "request.json").write_text(request.model_dump_json())
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        assert self.served.access_key_id is not None
        assert self.served.secret_access_key is not None
        environment = {
            **self.environment,
            "PATH": "/usr/bin:/bin",
            "CARWRIGHT_CACHE": str(self.folder / "cache"),
            "CARWRIGHT_STORE__ENDPOINT": str(self.served.endpoint),
            "CARWRIGHT_STORE__ACCESS_KEY_ID": self.served.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": self.served.secret_access_key.get_secret_value(),
        }
        argv = [sys.executable, "-m", "containers.push", "--request", str(self.folder / "request.json")]
        command = [*argv, "--result", str(result)]
        return subprocess.Popen(command, env=environment, cwd=self.root, stderr=subprocess.PIPE, text=True)

    def verdict(self, subject: str, decision: str, fingerprint: str = "e") -> ArtifactRef:
        said = Verdict.model_validate(
            {"decision": decision, "subject": subject, "suite": "smoke", "reasons": ["as told"]}
        )
        return self.stored_verdict(said.model_dump_json().encode(), fingerprint)

    def stored_verdict(self, content: bytes, fingerprint: str) -> ArtifactRef:
        entry = FileEntry(path="verdict.json", size=len(content), sha256=self.store.put_bytes(content))
        return self.store.commit(Manifest(kind=Kind.VERDICT, fingerprint=fingerprint * 64, files=(entry,)))

    def card(self, text: str, subject: Digest, **said: str) -> ArtifactRef:
        """A card of that text, with a bill of materials and statements about the image that say what is given."""
        files = {"README.md": text.encode(), "bom.cdx.json": b"{}"}
        for kind, title in in_toto.FILES.items():
            files[title] = in_toto.write("org/car", subject, kind, {"said": said.get(in_toto.NAMES[title], "")}).content
        return self.documents(files)

    def documents(self, files: dict[str, bytes]) -> ArtifactRef:
        """What a promotion attaches besides the verdict."""
        entries = tuple(
            FileEntry(path=p, size=len(c), sha256=self.store.put_bytes(c)) for p, c in sorted(files.items())
        )
        fingerprint = hashlib.sha256(b"".join(files.values())).hexdigest()
        return self.store.commit(Manifest(kind=Kind.CARD, fingerprint=fingerprint, files=entries))


@pytest.fixture
def lab(tmp_path: Path, root: Path) -> Iterator[Lab]:
    source = write_checkpoint(tmp_path / "checkpoint")
    with EmbeddedStore(tmp_path / "store", tmp_path / "store.log") as served:
        store = Store.open(StoreLocation(endpoint=served.endpoint, bucket=served.bucket), served)
        entries = []
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = str(path.relative_to(source))
            hasher = LayerHasher(name, path.stat().st_size)
            hasher.update(path.read_bytes())
            entries.append(
                FileEntry(
                    path=name,
                    size=path.stat().st_size,
                    sha256=store.put_file(path),
                    # One file's layer is not known beforehand, as in a checkpoint that was stored by an older version.
                    layer=None if name == "LICENSE" else hasher.digest(),
                )
            )
        files = tuple(sorted(entries, key=lambda entry: entry.path))
        ref = store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="c" * 64, files=files))
        yield Lab(tmp_path, root, served, store, ref, source)


def test_push_and_promote(lab: Lab, tmp_path: Path) -> None:
    """Pushed once, found the second time, promoted by its verdict, promoted again without a change."""
    with LocalRegistry(tmp_path / "registry") as registry:
        for target in (f"oci:{tmp_path}/car", f"{registry}/org/car"):
            push = PushParameters(target=target, annotations={"org.opencontainers.image.revision": "abc"})
            code, result, said = lab.run(push, checkpoint=lab.checkpoint)
            assert code == 0, said
            pushed = PushedImage.read(result.values)
            assert not pushed.already_there
            code, result, said = lab.run(push, checkpoint=lab.checkpoint)
            again = PushedImage.read(result.values)
            assert (again.digest, again.already_there, again.pushed_bytes) == (pushed.digest, True, 0)
            promote = PushParameters(action="promote", reference=pushed.reference, tags=("v1", "latest"))
            verdict = lab.verdict(str(pushed.digest), "pass")
            for text, there in (("# old", False), ("# old", True), ("# new", False), ("# new", True)):
                code, result, said = lab.run(promote, verdict=verdict, card=lab.card(text, pushed.digest))
                assert code == 0, said
                promoted = PromotedImage.read(result.values)
                assert promoted.already_there is there
                names = {"evaluation", "card", "provenance", "test-result", "bom", "bom-file"}
                assert set(promoted.attached) == names
            settings = Settings(cache=tmp_path / "cache")
            assert resolve(f"{target}:latest", settings) == pushed.digest
            with open_repository(target, settings) as repository:
                (found,) = referrers.attached(repository, pushed.digest, referrers.EVALUATION)
                (file,) = referrers.fetch(repository, found)
                cards = referrers.attached(repository, pushed.digest, referrers.CARD)
                newest = referrers.newest(repository, pushed.digest, referrers.CARD)
                assert newest is not None
                (card,) = referrers.fetch(repository, newest[0])
                (bom,) = referrers.attached(repository, pushed.digest, "application/vnd.cyclonedx+json")
                statements = referrers.manifests(repository, pushed.digest, "application/vnd.in-toto+json")
                kinds = {one.annotations["in-toto.io/predicate-type"]: one.layers[0] for _, one in statements}
            assert json.loads(file.content)["decision"] == "pass"
            assert (len(cards), card.title, card.media_type, card.content) == (
                2,
                "README.md",
                "text/markdown",
                b"# new",
            )
            assert len(statements) == 3  # one of each kind: attaching the same again added none
            assert bom.digest == promoted.attached["bom-file"]
            assert {kind: one.annotations[referrers.TITLE] for kind, one in kinds.items()} == {
                "https://slsa.dev/provenance/v1": "provenance.intoto.json",
                "https://in-toto.io/attestation/test-result/v0.1": "test-result.intoto.json",
                "https://cyclonedx.org/bom": "bom.intoto.json",
            }
            assert {one.media_type for one in kinds.values()} == {"application/vnd.in-toto+json"}
            for text, added in (("# new", 4), ("# new", 4)):  # one that says something else; the others stay
                card = lab.card(text, pushed.digest, provenance="more")
                code, result, said = lab.run(promote, verdict=verdict, card=card)
                with open_repository(target, settings) as repository:
                    assert len(referrers.attached(repository, pushed.digest, "application/vnd.in-toto+json")) == added
            code, result, said = lab.run(promote, verdict=verdict, card=lab.card("# new", Digest.of(b"another")))
            assert (code, result) == (2, None)
            assert f"is not about {pushed.digest}" in said
            unpack(f"{target}:v1", tmp_path / f"model-{bool(target.startswith('oci'))}", settings)
        assert pushed.digest == resolve(f"oci:{tmp_path}/car:v1", settings)


def test_what_cannot_be_attached_does_not_hold_a_promotion_up(lab: Lab, tmp_path: Path) -> None:
    """A registry without the referrers API whose tags cannot be moved: the tested digest is promoted, and what is missing is said."""
    with registry_double(immutable=True) as registry:
        target = f"{registry.address}/org/car"
        code, result, said = lab.run(PushParameters(target=target), checkpoint=lab.checkpoint)
        assert code == 0, said
        pushed = PushedImage.read(result.values)
        promote = PushParameters(action="promote", reference=pushed.reference, tags=("v1",))
        card = lab.card("# new", pushed.digest)
        code, result, said = lab.run(promote, verdict=lab.verdict(str(pushed.digest), "pass"), card=card)
        assert code == 0, said
        assert PromotedImage.read(result.values).attached == {}
        for name in ("evaluation", "card", "provenance", "test-result", "bom", "bom-file"):
            assert f"{name}: {target} keeps no list of referrers and lets no tag be moved" in said
        assert registry.tags["org/car", "v1"] == str(pushed.digest)


def test_layers_go_ahead_of_their_image(lab: Lab, tmp_path: Path) -> None:
    """The process is killed between two shards, and another one and the push go on: each layer is sent once, under no tag."""
    feed, settings = "f" * 64, Settings(cache=tmp_path / "cache")
    entries = [entry for entry in lab.store.load(lab.checkpoint).files if entry.path.endswith(".safetensors")]
    first, *others = entries
    assert others
    with LocalRegistry(tmp_path / "registry") as registry:
        ahead = PushParameters(action="push-layers", target=f"{registry}/org/car")
        with open_repository(ahead.target, settings) as repository, ShardFeed(lab.store, feed):
            publish(lab.store, feed, first)
            killed = lab.start(ahead, PushOptions(arriving=feed))
            until(lambda: repository.blob_size(layer_of(first)) is not None, "the first layer is pushed")
            assert killed.poll() is None
            killed.kill()
            killed.communicate()
            for entry in others:
                publish(lab.store, feed, entry)
        code, result, said = lab.run(ahead, PushOptions(arriving=feed))
        assert code == 0, said
        assert f"{len(others)} layers sent ahead, 1 were already there" in said
        with open_repository(ahead.target, settings) as repository:
            assert all(repository.blob_size(layer_of(entry)) for entry in entries)
            assert repository.tags() == ()
        code, result, said = lab.run(PushParameters(target=ahead.target), checkpoint=lab.checkpoint)
        assert code == 0, said
        assert result.metrics["skipped_layers"] == len(entries)
        assert not PushedImage.read(result.values).already_there
        _, alone, _ = lab.run(PushParameters(target=f"oci:{tmp_path}/alone"), checkpoint=lab.checkpoint)
        assert PushedImage.read(alone.values).digest == resolve(
            f"{ahead.target}:{PushedImage.read(result.values).candidate_tag}", settings
        )


def layer_of(entry: FileEntry) -> Digest:
    assert entry.layer is not None
    return entry.layer


@pytest.mark.parametrize(
    ("decision", "other", "code"), [("refuse", False, 3), ("inconclusive", False, 4), ("pass", True, 3)]
)
def test_the_gate(lab: Lab, tmp_path: Path, decision: str, *, other: bool, code: int) -> None:
    """Only a pass for exactly this digest gives a tag; an override does it too, and is recorded."""
    _, result, _ = lab.run(PushParameters(target=f"oci:{tmp_path}/car", base="none"), checkpoint=lab.checkpoint)
    pushed = PushedImage.read(result.values)
    promote = PushParameters(action="promote", reference=pushed.reference, tags=("v1",))
    verdict = lab.verdict("sha256:" + "0" * 64 if other else str(pushed.digest), decision)
    got, result, said = lab.run(promote, verdict=verdict)
    assert (got, result) == (code, None), said
    settings = Settings(cache=tmp_path / "cache")
    with open_repository(f"oci:{tmp_path}/car", settings) as repository:
        assert repository.tags() == (pushed.candidate_tag,)
    got, result, said = lab.run(promote, PushOptions(override="for the demo"), verdict=verdict)
    assert got == 0, said
    with open_repository(f"oci:{tmp_path}/car", settings) as repository:
        assert "v1" in repository.tags()
        (found,) = referrers.attached(repository, pushed.digest, referrers.EVALUATION)
        assert found.annotations["dev.carwright.override"] == "for the demo"


def test_the_smoke_profile_promotes_what_is_not_decided_and_nothing_worse(lab: Lab, tmp_path: Path) -> None:
    """It warns with the gate's own words, and the profile is on record."""
    _, result, _ = lab.run(PushParameters(target=f"oci:{tmp_path}/car", base="none"), checkpoint=lab.checkpoint)
    pushed = PushedImage.read(result.values)
    promote = PushParameters(action="promote", reference=pushed.reference, tags=("v1",))
    smoke = PushOptions(gate_profile="smoke")
    code, _, said = lab.run(promote, smoke, verdict=lab.verdict(str(pushed.digest), "refuse", "d"))
    assert code == 3, said
    code, _, said = lab.run(promote, smoke, verdict=lab.verdict(str(pushed.digest), "inconclusive"))
    assert code == 0, said
    assert any("could not decide" in line and '"warning"' in line for line in said.splitlines())
    with open_repository(f"oci:{tmp_path}/car", Settings(cache=tmp_path / "cache")) as repository:
        assert "v1" in repository.tags()
        (found,) = referrers.attached(repository, pushed.digest, referrers.EVALUATION)
        assert found.annotations["dev.carwright.gate.profile"] == "smoke"


def test_without_a_verdict(lab: Lab, tmp_path: Path) -> None:
    """What was not measured is not promoted, and what is not pinned cannot be."""
    _, result, _ = lab.run(PushParameters(target=f"oci:{tmp_path}/car", base="none"), checkpoint=lab.checkpoint)
    pushed = PushedImage.read(result.values)
    code, _, said = lab.run(PushParameters(action="promote", reference=pushed.reference, tags=("v1",)))
    assert code == 3
    assert "was not measured" in said
    code, _, said = lab.run(PushParameters(action="promote", reference=f"oci:{tmp_path}/car:x", tags=("v1",)))
    assert code == 2
    assert "not pinned" in said


def test_a_verdict_that_cannot_be_read(lab: Lab, tmp_path: Path) -> None:
    """It promotes nothing; a person's override does not ask it."""
    _, result, _ = lab.run(PushParameters(target=f"oci:{tmp_path}/car", base="none"), checkpoint=lab.checkpoint)
    promote = PushParameters(action="promote", reference=PushedImage.read(result.values).reference, tags=("v1",))
    verdict = lab.stored_verdict(b'{"decision": "splendid"}', "b")
    code, result, said = lab.run(promote, verdict=verdict)
    assert (code, result) == (2, None), said
    assert "not a verdict that this version reads" in said
    code, _, said = lab.run(promote, PushOptions(override="for the demo"), verdict=verdict)
    assert code == 0, said


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (PushParameters(target="name"), "names no registry"),
        (PushParameters(target="oci:x", base="alpine"), "names no registry"),
        (PushParameters(target="oci:x", base="none", platforms=("windows/amd64",)), "not a platform"),
        (PushParameters(target="oci:/proc/car", base="none"), "cannot write"),
    ],
)
def test_bad_parameters(lab: Lab, parameters: PushParameters, says: str) -> None:
    """Each is exit code 2 and one message."""
    code, result, said = lab.run(parameters, checkpoint=lab.checkpoint)
    assert (code, result) == (2, None), said
    assert says in said


def test_several_platforms(lab: Lab, tmp_path: Path) -> None:
    """Two platforms make an index over two images that share the model's layers."""
    target = f"oci:{tmp_path}/car"
    code, result, said = lab.run(
        PushParameters(target=target, base="none", platforms=("linux/amd64", "linux/arm64")), checkpoint=lab.checkpoint
    )
    assert code == 0, said
    pushed = PushedImage.read(result.values)
    blobs = tmp_path / "car/blobs/sha256"
    index = json.loads((blobs / pushed.digest.hex).read_bytes())
    platforms = [one["platform"]["architecture"] for one in index["manifests"]]
    assert platforms == ["amd64", "arm64"]
    layers = [json.loads((blobs / one["digest"][7:]).read_bytes())["layers"] for one in index["manifests"]]
    assert layers[0] == layers[1]
    settings = Settings(cache=tmp_path / "cache")
    unpack(f"{target}@{pushed.digest}", tmp_path / "model", settings)
    assert (tmp_path / "model/onnx/config.json").read_bytes() == (lab.source / "onnx/config.json").read_bytes()


def pushed_for_promotion(
    lab: Lab, target: str, **more: Any
) -> tuple[PushedImage, PushParameters, dict[str, ArtifactRef]]:
    """A modelcar at `target`, and what promotes it to the tag v1: the parameters, a verdict and documents."""
    _, result, _ = lab.run(PushParameters(target=target, **more), checkpoint=lab.checkpoint)
    pushed = PushedImage.read(result.values)
    provenance = statements(target, pushed.digest)["provenance"]
    inputs = {
        "verdict": lab.verdict(str(pushed.digest), "pass"),
        "card": lab.documents({"README.md": b"card", "provenance.json": provenance}),
    }
    return pushed, PushParameters(action="promote", reference=pushed.reference, tags=("v1",)), inputs


def test_promotion_signs_before_it_tags(lab: Lab, tmp_path: Path) -> None:
    """The image, its files and the statement, once; with a key that cannot be opened nothing is promoted."""
    with LocalRegistry(tmp_path / "registry") as address:
        pushed, promote, inputs = pushed_for_promotion(lab, f"{address}/org/car", also=("raw",))
        lab.environment |= {
            "CARWRIGHT_SIGN__KEY": (KEYS / "carwright.key").read_text(),
            "CARWRIGHT_SIGN__PASSWORD": "no",
        }
        code, _, said = lab.run(promote, **inputs)
        assert code == 2
        assert "the password does not open CARWRIGHT_SIGN__KEY" in said
        with open_repository(pushed.reference, Settings()) as repository:
            assert repository.get("v1") is None
        lab.environment["CARWRIGHT_SIGN__PASSWORD"] = PASSWORD
        rules = policy(
            "keys: [{name: k, file: carwright.pub}]\nrequire: {statements: [signature, provenance, model]}\n"
        )
        for there in (False, True):
            code, result, said = lab.run(promote, **inputs)
            assert code == 0, said
            assert PromotedImage.read(result.values).already_there is there
            assert PASSWORD not in said
            assert set(check(f"{address}/org/car:v1", rules, Settings()).signed) == {"signature", "provenance", "model"}
        with open_repository(pushed.reference, Settings()) as repository:
            raw = repository.get("v1-raw")
            assert raw is not None
            assert len(find_bundles(repository, raw.digest)) == 1  # the files' signature, beside the files


def test_a_token_signs_a_promotion(lab: Lab, tmp_path: Path) -> None:
    """All of it, by a key that never leaves the token; again nothing is signed; with a wrong PIN nothing is promoted."""
    token = SoftToken.make(tmp_path / "token")
    with LocalRegistry(tmp_path / "registry") as address:
        pushed, promote, inputs = pushed_for_promotion(lab, f"{address}/org/car")
        lab.environment |= token.variables() | {"CARWRIGHT_SIGN__PIN": "13579"}
        code, _, said = lab.run(promote, **inputs)
        assert code == 2
        assert "the token does not sign with pkcs11:token=carwright%20tests;id=%02: the PIN is wrong" in said
        with open_repository(pushed.reference, Settings()) as repository:
            assert repository.get("v1") is None
        lab.environment |= token.variables()
        for there in (False, True):
            code, result, said = lab.run(promote, **inputs)
            assert code == 0, said
            assert PIN not in said
            assert PromotedImage.read(result.values).already_there is there
        (tmp_path / "token.pub").write_text(token.public("02"))
        rules = Policy.parse(
            "keys: [{name: token, file: token.pub}]\nrequire: {statements: [signature, provenance, model]}\n",
            "policy.yaml",
            tmp_path,
        )
        assert set(check(f"{address}/org/car:v1", rules, Settings()).signed) == {"signature", "provenance", "model"}


def test_promotion_signs_for_a_token(lab: Lab, tmp_path: Path) -> None:
    """Without a key; with a token that has expired nothing is promoted, and no token is in what the step says."""
    with LocalRegistry(tmp_path / "registry") as address, LocalSigstore() as sigstore:
        pushed, promote, inputs = pushed_for_promotion(lab, f"{address}/org/car")
        sigstore.write(tmp_path)
        lab.environment["CARWRIGHT_SIGN__KEYLESS"] = json.dumps(sigstore.trust_config())
        for token, told in ((sigstore.token(exp=1_700_000_000), "token expired at 2023-11-14"), (sigstore.token(), "")):
            lab.environment["CARWRIGHT_SIGN__IDENTITY_TOKEN"] = token
            code, _, said = lab.run(promote, **inputs)
            assert (code == 2) is bool(told), said
            assert told in said
            assert token not in said
            with open_repository(pushed.reference, Settings()) as repository:
                assert (repository.get("v1") is None) is bool(told)
        who = f"identities: [{{name: ci, issuer: '{sigstore.url}', subject: 'https://ci.example/org/*'}}]\n"
        text = f"{who}trusted_root: trusted_root.json\nrequire: {{statements: [signature, provenance, model]}}\n"
        trusted = check(f"{address}/org/car:v1", Policy.parse(text, "p", tmp_path), Settings())
        assert trusted.signed["provenance"][0].startswith("ci: https://ci.example/org/repo/ship.yaml@refs/heads/main")
