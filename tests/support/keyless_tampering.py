"""Ways to tamper with a model that is signed without a key, as in tests/support/tampering.py.

They are done by somebody who may write to the registry and may get certificates of the same authority, for himself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.x509.oid import ExtendedKeyUsageOID

from containers.trust.keyless import KeylessSigner
from tests.support.local_sigstore import LocalSigstore
from tests.support.tampering import STRICT, Scene, Tampering, edited, in_payload, in_signature

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY: Final = "https://ci.example/org/repo"
SUBJECT: Final = "https://ci.example/org/repo/ship.yaml@refs/heads/main"
_KEYS: Final = "keys:\n  - name: release\n    file: carwright.pub\n"
_BUILD: Final = """\
identities:
  - name: ci
    issuer: ISSUER
    subject: https://ci.example/org/repo/*@refs/heads/main
    repository: https://ci.example/org/repo
trusted_root: trusted_root.json
"""


@dataclass
class KeylessScene(Scene):
    """A model that the build on the branch main has signed, and the Sigstore that it was signed with."""

    sigstore: LocalSigstore = field(default_factory=LocalSigstore)

    def __post_init__(self) -> None:
        assert _KEYS in STRICT
        self.policy = STRICT.replace(_KEYS, _BUILD.replace("ISSUER", self.sigstore.url))
        self.beside = {"trusted_root.json": json.dumps(self.sigstore.trusted_root())}


def signer_of(sigstore: LocalSigstore, subject: str = SUBJECT, repository: str = REPOSITORY) -> KeylessSigner:
    return KeylessSigner(json.dumps(sigstore.trust_config()), sigstore.token(subject, repository=repository or None))


def _keyless(act: Callable[[KeylessScene], None]) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        assert isinstance(scene, KeylessScene)
        act(scene)

    return run


def _by(subject: str) -> Callable[[Scene], None]:
    """The verdict is signed by somebody else, with a certificate of the same authority."""
    return _keyless(lambda s: s.replace("verdict", signer_of(s.sigstore, subject).bundle(s.statement("verdict"))))


def _called_from(repository: str) -> Callable[[Scene], None]:
    """The verdict is signed by the trusted workflow, which another repository has called."""
    return _keyless(
        lambda s: s.replace("verdict", signer_of(s.sigstore, SUBJECT, repository).bundle(s.statement("verdict")))
    )


def _issued(scene: KeylessScene) -> None:
    scene.sigstore.issues = "https://else.example"
    _by(SUBJECT)(scene)


def _of_another_sigstore(scene: KeylessScene) -> None:
    with LocalSigstore() as other:
        scene.replace("verdict", signer_of(other).bundle(scene.statement("verdict")))


def _for_servers(scene: KeylessScene) -> None:
    """The authority also issues certificates for something else, for the same name."""
    from sigstore.dsse import Statement

    scene.sigstore.usage = ExtendedKeyUsageOID.SERVER_AUTH
    try:
        made = signer_of(scene.sigstore)._session.sign_dsse(Statement(scene.statement("verdict")))
    finally:
        scene.sigstore.usage = ExtendedKeyUsageOID.CODE_SIGNING
    scene.replace("verdict", made.to_json().encode())


def _late(scene: KeylessScene) -> None:
    """As a signer does it that does not look at what the log answered."""
    from sigstore.dsse import Statement

    signer = signer_of(scene.sigstore)
    scene.sigstore.log_delay = 3600
    made = signer._session.sign_dsse(Statement(scene.statement("verdict")))
    scene.replace("verdict", made.to_json().encode())


def _without(*names: str) -> Callable[[Scene], None]:
    """The root no longer has these logs, but another Sigstore's."""

    def act(scene: KeylessScene) -> None:
        root = json.loads(scene.beside["trusted_root.json"])
        other = LocalSigstore().trusted_root()
        scene.beside["trusted_root.json"] = json.dumps({**root, **{name: other[name] for name in names}})

    return _keyless(act)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    """The verdict's bundle becomes another one."""
    return lambda scene: scene.replace("verdict", edited(scene.bundles()["verdict"], change))


def _entry(change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    return _edit(lambda value: change(value["verificationMaterial"]["tlogEntries"][0]))


def _from(name: str, *path: str) -> Callable[[Scene], None]:
    """A part of the verdict's bundle is that of another statement's."""

    def act(scene: Scene) -> None:
        there = json.loads(scene.bundles()[name])

        def change(value: dict[str, Any]) -> None:
            source, target = there, value
            for key in path[:-1]:
                source, target = source[key], target[key]
            target[path[-1]] = source[path[-1]]

        scene.replace("verdict", edited(scene.bundles()["verdict"], change))

    return act


def _proof_of_another(scene: Scene) -> None:
    there = json.loads(scene.bundles()["bom"])["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    _entry(lambda entry: entry.update(inclusionProof=there))(scene)


def _later(entry: dict[str, Any]) -> None:
    entry["integratedTime"] = str(int(entry["integratedTime"]) + 60)


def _checkpoint(entry: dict[str, Any]) -> None:
    envelope = entry["inclusionProof"]["checkpoint"]
    envelope["envelope"] = envelope["envelope"].replace("log.local - 1", "log.local - 2")


def _policy(before: str, after: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        assert before in scene.policy
        scene.policy = scene.policy.replace(before, after)

    return act


def _certificate_of_another(scene: KeylessScene) -> None:
    """The certificate is older than the signature, so that its time tells nothing."""
    statement = scene.statement("verdict")
    other = json.loads(signer_of(scene.sigstore, "https://ci.example/org/repo/x@refs/heads/main").bundle(statement))
    scene.replace("verdict", signer_of(scene.sigstore).bundle(statement))
    _edit(lambda value: value["verificationMaterial"].update(certificate=other["verificationMaterial"]["certificate"]))(
        scene
    )


_TAMPERED: Final = "was changed after it was signed"
KEYLESS: Final = tuple(
    Tampering("registry, without a key", what, act, found)
    for what, act, found in (
        ("forge: signed for another subject", _by("https://ci.example/else/repo/ship.yaml@refs/heads/main"), "who is none of 'ci'"),
        ("forge: signed on another branch", _by("https://ci.example/org/repo/ship.yaml@refs/heads/dev"), "who is none of 'ci'"),
        ("forge: signed on a branch whose name ends as the trusted one's", _by("https://ci.example/org/repo/ship.yaml@refs/heads/x@refs/heads/main"), "who is none of 'ci'"),
        ("forge: the trusted workflow, called from another repository", _called_from("https://ci.example/fork/repo"), "and this was built for https://ci.example/fork/repo"),
        ("forge: the trusted workflow, for nobody knows whom", _called_from(""), "built for one that the certificate does not name"),
        ("forge: a subject that begins as the trusted one does", _by(f"{SUBJECT}-else"), "who is none of 'ci'"),
        ("forge: a subject with the trusted one in it", _by(f"https://else.example/{SUBJECT}"), "who is none of 'ci'"),
        ("forge: signed on the word of another issuer", _keyless(_issued), "and the issuer of 'ci' is"),
        ("forge: signed with another Sigstore", _keyless(_of_another_sigstore), "of an authority that the trusted root does not know"),
        ("forge: one character of the statement", _edit(in_payload), _TAMPERED),
        ("forge: one bit of the signature", _edit(in_signature), _TAMPERED),
        ("forge: the certificate of somebody else", _keyless(_certificate_of_another), _TAMPERED),
        ("forge: a key in the certificate's place", _edit(lambda v: v.update(verificationMaterial={"publicKey": {"hint": "a"}, "tlogEntries": []})), "no good signature by any key"),
        ("forge: a key beside the certificate", _edit(lambda v: v["verificationMaterial"].update(publicKey={"hint": "a"})), "both a key and a certificate"),
        ("forge: a certificate that is not for signing code", _keyless(_for_servers), "does not contain `code signing`"),
        ("forge: half of the certificate", _edit(lambda v: v["verificationMaterial"]["certificate"].update(rawBytes="AAAA")), "is not a bundle with a certificate that can be read"),
        ("log: the root does not know it", _without("tlogs"), "in a transparency log that the trusted root does not know"),
        ("log: the root does not know the certificate log", _without("ctlogs"), "in no certificate log of the trusted root"),
        ("log: the entry is taken away", _edit(lambda v: v["verificationMaterial"].update(tlogEntries=[])), "has not one entry in the transparency log"),
        ("log: the proof of inclusion is taken away", _entry(lambda e: e.pop("inclusionProof")), "has no proof that the transparency log holds it"),
        ("log: the signed time is taken away", _entry(lambda e: e.pop("inclusionPromise")), "has no signed time"),
        ("log: the entry of another statement", _from("bom", "verificationMaterial", "tlogEntries"), "than its entry in the transparency log"),
        ("log: the proof of another entry", _proof_of_another, "a proof that does not lead to the transparency log's root"),
        ("log: a checkpoint that it did not sign", _entry(_checkpoint), "in a transparency log that the trusted root does not know"),
        ("log: a time that it did not sign", _entry(_later), "a time that the transparency log did not sign"),
        ("time: logged when the certificate had ended", _keyless(_late), "was logged at"),
        ("time: signed after the identity was given up", _policy("org/repo\n", "org/repo\n    until: 2020-01-01\n"), "was trusted until 2020-01-01"),
        ("time: signed before the identity was trusted", _policy("org/repo\n", "org/repo\n    since: 2099-01-01\n"), "is trusted from 2099-01-01"),
        ("identities: it may not sign verdicts", _policy("org/repo\n", "org/repo\n    statements: [signature, provenance, bom, model]\n"), "may not sign a verdict"),
        ("replay: the verdict of another image by the same build", lambda s: s.replace("verdict", s.bundles(s.other)["verdict"]), "not about this image"),
        ("replay: the model of another image by the same build", lambda s: s.replace("model", s.bundles(s.other)["model"]), "was signed"),
        ("strip: the verdict is taken away", lambda s: s.replace("verdict", None), "has no verdict signed as the policy demands"),
        ("downgrade: a bundle of an older version", _edit(lambda v: v.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2")), "another version"),
    )
)  # fmt: skip
