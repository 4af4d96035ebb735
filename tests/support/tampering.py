"""A table of ways to tamper with a signed model between promotion and vLLM, each a function over a `Scene`.

Every one is done as somebody would do it who may write to the place, and has no key that the policy trusts.
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from containers.digest import Digest
from containers.oci.access import open_repository
from containers.oci.repository import Blob, found, read_small
from containers.oci.types import EMPTY, EMPTY_CONTENT, INDEX, Descriptor, ImageManifest, Index, Platform
from containers.trust import signing, simplesigning
from containers.trust.attach import CONTENT, PREDICATE_TYPE
from containers.trust.dsse import BUNDLE, IN_TOTO, Envelope, pae, write_bundle
from containers.trust.statement import NAMES, SIGNATURE, write
from tests.support.trust_world import POLICY, SignedModel, sign, signer, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from containers.oci.repository import Repository
    from containers.settings import StepSettings

KINDS: Final = ("signature", "provenance", "verdict", "bom", "model")
STRICT: Final = POLICY.replace("verdict, bom]", "verdict, bom, model]")


@dataclass
class Scene:
    """A signed model and another one by the same key, the policy, and what is done to the served folder just before vLLM."""

    model: SignedModel
    other: SignedModel
    settings: StepSettings
    storage: Path  # of the registry, or the layout
    policy: str = STRICT
    reference: str = ""
    beside: dict[str, str] = field(default_factory=dict)  # files beside the policy
    at_rest: Callable[[Path], None] = lambda _: None
    in_flight: list[tuple[str, Callable[[bytes], bytes]]] = field(
        default_factory=list
    )  # part of a path, and the change

    def bundles(self, model: SignedModel | None = None) -> dict[str, bytes]:
        """The bundles of a model by the name of their predicate."""
        chosen = model or self.model
        with open_repository(chosen.reference, self.settings) as repository:
            return dict(_bundles(repository, chosen.digest))

    def put(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Make these (predicate's name, bundle) the referrers of the model, in the place of those that it has."""
        with open_repository(self.model.reference, self.settings, write=True) as repository:
            entries = [_refer(repository, self.model.digest, name, content) for name, content in contents]
            self.relist(entries, repository)

    def relist(self, entries: list[Descriptor], repository: Repository) -> None:
        index = Index(manifests=tuple(entries), media_type=INDEX).encode()
        repository.put(index, INDEX, f"sha256-{self.model.digest.hex}")

    def replace(self, name: str, content: bytes | None) -> None:
        """Replace one bundle, or take it away."""
        held = {**self.bundles(), name: content}
        self.put((one, bundle) for one, bundle in held.items() if bundle is not None)
        if name == "signature":
            self.untag()

    def untag(self) -> None:
        """Take cosign's older signature away."""
        with open_repository(self.model.reference, self.settings, write=True) as repository:
            stored = repository.get(simplesigning.signature_tag(self.model.digest))
            if stored is not None:
                repository.delete(stored.digest)

    def statement(self, name: str) -> bytes:
        """What the bundle's payload is."""
        return base64.b64decode(json.loads(self.bundles()[name])["dsseEnvelope"]["payload"])


def _bundles(repository: Repository, digest: Digest) -> Iterable[tuple[str, bytes]]:
    names = {uri: name for name, uri in NAMES.items()}
    for one in repository.referrers(digest):
        manifest = found(repository, str(one.digest)).parse()
        if isinstance(manifest, ImageManifest) and manifest.artifact_type == BUNDLE:
            yield names[manifest.annotations[PREDICATE_TYPE]], read_small(repository, manifest.layers[0])


def _refer(repository: Repository, subject: Digest, name: str, content: bytes) -> Descriptor:
    repository.put_blob(Blob.of(content), lambda _: None)
    repository.put_blob(Blob.of(EMPTY_CONTENT), lambda _: None)
    manifest = ImageManifest(
        artifact_type=BUNDLE,
        config=Descriptor(media_type=EMPTY, digest=Digest.of(EMPTY_CONTENT), size=2),
        layers=(Descriptor(media_type=BUNDLE, digest=Digest.of(content), size=len(content)),),
        subject=found(repository, str(subject)).descriptor,
        annotations={CONTENT: "dsse-envelope", PREDICATE_TYPE: NAMES[name]},
    )
    encoded = manifest.encode()
    digest = repository.put(encoded, manifest.media_type)
    return Descriptor(
        media_type=manifest.media_type,
        digest=digest,
        size=len(encoded),
        artifact_type=BUNDLE,
        annotations=manifest.annotations,
    )


def bundled(payload: bytes, key: str = "carwright", kind: str = IN_TOTO) -> bytes:
    """A bundle over a payload, signed by one of the keys."""
    made = signer(key)
    return write_bundle(Envelope(payload, made.sign(pae(kind, payload)), kind), made.public)


def edited(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(content)
    change(value)
    return json.dumps(value).encode()


def in_payload(value: dict[str, Any]) -> None:
    """One character of the payload becomes another."""
    payload = bytearray(base64.b64decode(value["dsseEnvelope"]["payload"]))
    at = payload.index(b"sha256") + 10
    payload[at] = ord("0") if payload[at] != ord("0") else ord("1")
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()


def in_signature(value: dict[str, Any]) -> None:
    one = value["dsseEnvelope"]["signatures"][0]
    raw = bytearray(base64.b64decode(one["sig"]))
    raw[-1] ^= 1
    one["sig"] = base64.b64encode(raw).decode()


def _second_signature(value: dict[str, Any]) -> None:
    value["dsseEnvelope"]["signatures"].append({"sig": "AAAA", "keyid": ""})


@dataclass(frozen=True)
class Tampering:
    """One row: where, what, how, and a part of the message that it is found with."""

    place: str
    what: str
    act: Callable[[Scene], None]
    found: str


def _changed(**predicate: Any) -> Callable[[Scene], None]:
    """One statement says something else; whoever has the key has signed it."""
    ((name, value),) = predicate.items()

    def act(scene: Scene) -> None:
        scene.replace(name, bundled(statements(scene.model.target.name, scene.model.digest, **{name: value})[name]))

    return act


def _asked(**values: str) -> dict[str, Any]:
    parameters = {"model": "hf://org/model", "revision": "main", "scheme": "FP8_DYNAMIC", **values}
    return {"buildDefinition": {"externalParameters": parameters, "resolvedDependencies": []}}


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    return lambda scene: scene.replace(name, edited(scene.bundles()[name], change))


def _policy(before: str, after: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        assert before in scene.policy
        scene.policy = scene.policy.replace(before, after)

    return act


def _revoked(scene: Scene) -> None:
    _policy("max_age_days", f"revoked: ['{signer().public.fingerprint}']\nmax_age_days")(scene)


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


def _dated(days: int) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        moment = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        told = write([("m", scene.model.digest)], SIGNATURE, {"signedAt": moment})
        scene.replace("signature", bundled(told))

    return act


def _as(name: str, kind: str) -> Callable[[Scene], None]:
    """The statement becomes one with another predicate, or of another version of in-toto, signed by the trusted key."""

    def act(scene: Scene) -> None:
        value = json.loads(scene.statement(name))
        value["_type" if "Statement" in kind else "predicateType"] = kind
        scene.replace(name, bundled(json.dumps(value).encode()))

    return act


def _strip_all(scene: Scene) -> None:
    scene.put(())
    scene.untag()


def _no_index(scene: Scene) -> None:
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        stored = found(repository, str(scene.model.digest))
        repository.put(stored.content, stored.media_type, f"sha256-{scene.model.digest.hex}")


def _index_deleted(scene: Scene) -> None:
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        repository.delete(found(repository, f"sha256-{scene.model.digest.hex}").digest)


def _others_index(scene: Scene) -> None:
    """The other model's own referrers are listed; whoever may push copies them over."""
    with open_repository(scene.other.reference, scene.settings) as theirs:
        entries = list(theirs.referrers(scene.other.digest))
        contents = [found(theirs, str(one.digest)) for one in entries]
        blobs = [read_small(theirs, layer) for one in contents for layer in _layers(one.parse())]
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        for blob in blobs:
            repository.put_blob(Blob.of(blob), lambda _: None)
        stored = found(repository, str(scene.model.digest))
        with open_repository(scene.other.reference, scene.settings) as theirs:
            subject = found(theirs, str(scene.other.digest))
        for one in contents:
            repository.put(one.content, one.media_type)
        assert subject.digest != stored.digest
        scene.relist(entries, repository)


def _layers(parsed: ImageManifest | Index) -> tuple[Descriptor, ...]:
    assert isinstance(parsed, ImageManifest)
    return (*parsed.layers, parsed.config)


def _older_tag_of_another(scene: Scene) -> None:
    scene.replace("signature", None)
    with open_repository(scene.other.reference, scene.settings) as theirs:
        (one,) = simplesigning.find(theirs, scene.other.digest)
    layer = Descriptor(
        media_type=simplesigning.PAYLOAD,
        digest=Digest.of(one.payload),
        size=len(one.payload),
        annotations={simplesigning.ANNOTATION: base64.b64encode(one.signature).decode()},
    )
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        for blob in (one.payload, EMPTY_CONTENT):
            repository.put_blob(Blob.of(blob), lambda _: None)
        config = Descriptor(media_type=EMPTY, digest=Digest.of(EMPTY_CONTENT), size=2)
        manifest = ImageManifest(config=config, layers=(layer,))
        repository.put(manifest.encode(), manifest.media_type, simplesigning.signature_tag(scene.model.digest))


def _only_older_tag(scene: Scene) -> None:
    held = scene.bundles()
    scene.put((name, content) for name, content in held.items() if name != "signature")


def _also_failed(scene: Scene) -> None:
    """The trusted key has said both; the one that refuses counts."""
    failed = statements("m", scene.model.digest, verdict={"result": "FAILED"})["verdict"]
    scene.put([*scene.bundles().items(), ("verdict", bundled(failed))])


def _retagged(scene: Scene) -> None:
    """The tag points at a model that nobody signed: the same with one more annotation."""
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        manifest = found(repository, str(scene.model.digest)).parse()
        assert isinstance(manifest, ImageManifest)
        changed = manifest.model_copy(update={"annotations": {**manifest.annotations, "note": "mine"}})
        repository.put(changed.encode(), changed.media_type, "1")
    scene.reference = f"{scene.model.target}:1"


def _one_of_two_renews(scene: Scene) -> None:
    """Two signed long ago, and whoever has the key of one signs again."""
    _policy("    file: carwright.pub\n", "    file: carwright.pub\n  - name: second\n    file: cosign.pub\n")(scene)
    _policy("require:", "require:\n  signers: 2")(scene)
    _dated(-40)(scene)
    sign(scene.model, scene.settings, [signer("cosign")])


def _lists_anothers_files(scene: Scene) -> None:
    """An image of somebody else's, with the signature of the model's files that it lists, where the policy asks for that alone."""
    scene.policy = "keys:\n  - name: release\n    file: carwright.pub\nrequire:\n  statements: [model]\n"
    bundle = scene.bundles()["model"]
    _retagged(scene)
    with open_repository(scene.reference, scene.settings, write=True) as repository:
        digest = found(repository, "1").digest
        entry = _refer(repository, digest, "model", bundle)
        repository.put(Index(manifests=(entry,), media_type=INDEX).encode(), INDEX, f"sha256-{digest.hex}")


def _denied_in_an_index(scene: Scene) -> None:
    """The index around a denied image is signed, too."""
    scene.policy = f"keys:\n  - name: release\n    file: carwright.pub\ndeny: ['{scene.model.digest}']\n"
    with open_repository(scene.model.reference, scene.settings, write=True) as repository:
        inner = found(repository, str(scene.model.digest)).descriptor
        entry = inner.model_copy(update={"platform": Platform(architecture="amd64", os="linux")})
        digest = repository.put(Index(manifests=(entry,), media_type=INDEX).encode(), INDEX, "1")
        signing.sign(repository, digest, (), [signer()])
    scene.reference = str(scene.model.target.at(digest))


def _beside_git(folder: Path) -> None:
    (folder / ".github").mkdir()
    (folder / ".github" / "modeling.py").write_text("import os")


def blob_file(scene: Scene, digest: Digest) -> Path:
    """The file in which a registry or a layout keeps a blob."""
    found_ = [
        one for one in scene.storage.rglob("*") if one.is_file() and digest.hex in str(one.relative_to(scene.storage))
    ]
    return next(one for one in found_ if one.name in {"data", digest.hex})


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _at_rest_in_store(pick: Callable[[ImageManifest], Digest | None]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        with open_repository(scene.model.reference, scene.settings) as repository:
            manifest = found(repository, str(scene.model.digest)).parse()
        assert isinstance(manifest, ImageManifest)
        _flip(blob_file(scene, pick(manifest) or scene.model.digest))

    return act


def _bundle_at_rest(name: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        _flip(blob_file(scene, Digest.of(scene.bundles()[name])))
        if name == "signature":
            scene.untag()

    return act


def _weights(manifest: ImageManifest) -> Digest:
    return max(manifest.layers, key=lambda one: one.size).digest


def _host(change: Callable[[Path], None]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.at_rest = change

    return act


def _shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def _linked_away(folder: Path) -> None:
    """A weight becomes a link to a file elsewhere, of the same size."""
    shard = _shard(folder)
    away = folder.parent / "away"
    shutil.copy(shard, away)
    _flip(away)
    shard.unlink()
    shard.symlink_to(away)


def _swapped(folder: Path) -> None:
    one, two = sorted(folder.glob("*.safetensors"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _flight(part: str, change: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    return lambda scene: scene.in_flight.append((part, change))


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


_MISSING: Final = "has no {} signed as the policy demands"
_BY_NOBODY: Final = "has no good signature by any key of the policy"
_VERDICT: Final = "the gate's decision is"

REGISTRY: Final = (
    *(Tampering("registry", f"strip: the {name} is taken away", lambda s, n=name: s.replace(n, None), _MISSING.format(name)) for name in KINDS),
    Tampering("registry", "strip: the list of referrers is emptied", _strip_all, "nothing signed is attached"),
    Tampering("registry", "strip: the list of referrers is overwritten by an image", _no_index, _MISSING.format("provenance")),
    Tampering("registry", "strip: the list of referrers is deleted", _index_deleted, _MISSING.format("provenance")),
    *(
        Tampering("registry", f"replay: the {name} of another image by the same key", lambda s, n=name: s.replace(n, s.bundles(s.other)[n]), "not about this image" if name != "model" else "was signed")
        for name in KINDS
    ),
    Tampering("registry", "replay: the whole list of referrers of another image", _others_index, "belongs to another image"),
    Tampering("registry", "replay: the older tag's signature of another image", _older_tag_of_another, "is about another image"),
    *(
        Tampering("registry", f"forge: the {name} signed by another key", lambda s, n=name: s.replace(n, bundled(s.statement(n), "cosign")), _BY_NOBODY)
        for name in KINDS
    ),
    *(Tampering("registry", f"forge: one character of the {name}", _edit(name, in_payload), _BY_NOBODY) for name in KINDS),
    *(Tampering("registry", f"forge: one bit of the {name}'s signature", _edit(name, in_signature), _BY_NOBODY) for name in KINDS),
    Tampering("registry", "forge: another type of payload", _edit("provenance", _set("dsseEnvelope", "payloadType", to="text/plain")), "holds no statement"),
    Tampering("registry", "forge: a second signature in the bundle", _edit("provenance", _second_signature), "2 signatures"),
    Tampering("registry", "forge: a bundle without a signature", _edit("verdict", _set("dsseEnvelope", "signatures", to=[])), "0 signatures"),
    Tampering("registry", "forge: a certificate in the key's place", _edit("bom", _set("verificationMaterial", to={"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []})), "the policy names no identities"),
    Tampering("registry", "forge: half of a bundle", lambda s: s.replace("bom", s.bundles()["bom"][:200]), "is not JSON"),
    Tampering("registry", "forge: a name twice in one object", lambda s: s.replace("bom", b'{"mediaType":"a",' + s.bundles()["bom"][1:]), "twice in one object"),
    Tampering("registry", "forge: a statement of more bytes than are read", lambda s: s.replace("bom", b'"' + b"x" * (17 << 20) + b'"'), "more than the 16777216 that are read"),
    Tampering("registry", "downgrade: a bundle of an older version", _edit("provenance", _set("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.1")), "another version"),
    Tampering("registry", "downgrade: a provenance of another version", _as("provenance", "https://slsa.dev/provenance/v0.2"), _MISSING.format("provenance")),
    Tampering("registry", "downgrade: a statement of an unknown version", _as("verdict", "https://in-toto.io/Statement/v9"), "not an in-toto statement of a known version"),
    Tampering("registry", "downgrade: the older signature alone, which has no date", _only_older_tag, "says when it was made"),
    Tampering("registry", "keys: the key is revoked", _revoked, "is revoked"),
    Tampering("registry", "keys: the key has expired", _policy("file: carwright.pub", "file: carwright.pub\n    until: 2020-01-01"), "expired on 2020-01-01"),
    Tampering("registry", "keys: the key is not valid yet", _policy("file: carwright.pub", "file: carwright.pub\n    since: 2099-01-01"), "from 2099-01-01"),
    Tampering("registry", "keys: the key may not sign verdicts", _policy("file: carwright.pub", "file: carwright.pub\n    statements: [signature, provenance, bom, model]"), "may not sign a verdict"),
    Tampering("registry", "keys: two keys are wanted, and one has signed", _policy("require:", "require:\n  signers: 2"), "2 signers are wanted"),
    Tampering("registry", "says otherwise: the gate refused", _changed(verdict={"result": "FAILED"}), _VERDICT),
    Tampering("registry", "says otherwise: the gate could not decide", _changed(verdict={"result": "WARNED"}), _VERDICT),
    Tampering("registry", "says otherwise: a result that there is not", _changed(verdict={"result": "FINE"}), _VERDICT),
    Tampering("registry", "says otherwise: a person promoted it", _changed(verdict={"override": "trust me"}), "a person promoted it"),
    Tampering("registry", "says otherwise: another suite", _changed(verdict={"suite": {"name": "easy"}}), "measured by the suite"),
    Tampering("registry", "says otherwise: a refusal beside the pass", _also_failed, _VERDICT),
    Tampering("registry", "says otherwise: another base model", _changed(provenance=_asked(model="hf://else/model")), "its base model is"),
    Tampering("registry", "says otherwise: another revision", _changed(provenance=_asked(revision="dev")), "its base's revision is"),
    Tampering("registry", "says otherwise: another recipe", _changed(provenance=_asked(scheme="INT4")), "its recipe is"),
    Tampering("registry", "says otherwise: a provenance that says nothing", _changed(provenance={"buildDefinition": {}}), "its base model is"),
    Tampering("registry", "time: signed more days ago than are allowed", _dated(-40), "more than the policy's 30 days ago"),
    Tampering("registry", "time: one of two signers has signed again lately", _one_of_two_renews, "more than the policy's 30 days ago"),
    Tampering("registry", "time: signed in the future", _dated(40), "one of two clocks is wrong"),
    Tampering("registry", "time: a date that is none", lambda s: s.replace("signature", bundled(write([("m", s.model.digest)], SIGNATURE, {"signedAt": "soon"}))), "says when it was made"),
    Tampering("registry", "image: its digest is denied", lambda s: _policy("max_age_days", f"deny: ['{s.model.digest}']\nmax_age_days")(s), "deny list"),
    Tampering("registry", "image: an index with one that is denied", _denied_in_an_index, "deny list, as the image"),
    Tampering("registry", "image: it lists the files of a signed model", _lists_anothers_files, "has no signature signed as the policy demands"),
    Tampering("registry", "image: from another repository", _policy("max_age_days", "repositories: ['quay.io/org/*']\nmax_age_days"), "none of the policy's repositories"),
    Tampering("registry", "image: the tag moved to one that is not signed", _retagged, "nothing signed is attached"),
)  # fmt: skip
AT_REST: Final = (
    Tampering("at rest in registry or layout", "the manifest", _at_rest_in_store(lambda _: None), ""),
    Tampering("at rest in registry or layout", "a layer with weights", _at_rest_in_store(_weights), "other bytes than"),
    Tampering("at rest in registry or layout", "the configuration", _at_rest_in_store(lambda m: m.config.digest), "other bytes than"),
    *(Tampering("at rest in registry or layout", f"the bundle of the {name}", _bundle_at_rest(name), "other bytes than") for name in KINDS),
)  # fmt: skip
IN_FLIGHT: Final = (
    Tampering("in flight", "the manifest", _flight("/manifests/sha256:", _flipped), ""),
    Tampering("in flight", "a layer or a bundle", _flight("/blobs/sha256:", _flipped), ""),
    Tampering("in flight", "the list of referrers", _flight("/manifests/sha256-", lambda _: b'{"schemaVersion":2,"manifests":[]}'), "nothing signed|has no"),
)  # fmt: skip
HOST: Final = (
    Tampering("serving host", "one bit of a weight", _host(lambda f: _flip(_shard(f))), "was signed"),
    Tampering("serving host", "two shards change places", _host(_swapped), "was signed"),
    Tampering("serving host", "config.json is replaced", _host(lambda f: (f / "config.json").write_text("{}") and None), "was signed"),
    Tampering("serving host", "a tokenizer is replaced", _host(lambda f: (f / "tokenizer.json").write_text("[]") and None), "was signed"),
    Tampering("serving host", "a file is added", _host(lambda f: (f / "modeling.py").write_text("import os") and None), "modeling.py was not signed"),
    Tampering("serving host", "a file is added where git keeps its own", _host(_beside_git), "modeling.py was not signed"),
    Tampering("serving host", "a file is taken away", _host(lambda f: (f / "LICENSE").unlink()), "LICENSE is missing"),
    Tampering("serving host", "a weight becomes a link to another file", _host(_linked_away), "was signed"),
)  # fmt: skip
