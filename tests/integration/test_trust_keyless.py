"""Keyless signatures: the real client library against services on loopback, and each way in which they do not count.

The services are those of tests/support/local_sigstore.py, since the public ones cannot be reached from a test. What is verified
is verified by PyPI `sigstore`, and, where that is installed, by the real cosign.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from typer.testing import CliRunner

from containers.errors import BadInput, NotTrusted, Temporary
from containers.identity_token import ambient_token
from containers.oci.access import open_repository, read_manifest
from containers.signing_settings import SigningSettings
from containers.trust import certified, signing
from containers.trust.dsse import BUNDLE, IN_TOTO
from containers.trust.keyless import KeylessSigner, open_keyless
from containers.trust.model_signing import check_folder, sign_folder
from containers.trust.policy import Policy
from containers.trust.verify import check, check_image
from flows.cli.main import app
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry
from tests.support.local_sigstore import REQUEST_TOKEN, LocalSigstore
from tests.support.trust_world import KEYS, POLICY, SignedModel, push, sign, statements
from tests.support.trust_world import signer as key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SUBJECT: Final = "https://ci.example/org/repo/ship.yaml@refs/heads/main"
EVERYTHING: Final = "[signature, provenance, verdict, bom, model]"


@pytest.fixture(scope="module")
def sigstore() -> Iterator[LocalSigstore]:
    with LocalSigstore() as running:
        yield running


@pytest.fixture(autouse=True)
def _as_it_should_be(sigstore: LocalSigstore) -> Iterator[None]:
    yield
    sigstore.log_delay, sigstore.issues = 0, ""
    sigstore.answers.clear()
    sigstore.said.clear()


@pytest.fixture
def model(tmp_path: Path) -> SignedModel:
    return push(f"oci:{tmp_path}/image:1", tmp_path / "checkpoint", Settings())


def signer(sigstore: LocalSigstore, token: str = "") -> KeylessSigner:
    return KeylessSigner(json.dumps(sigstore.trust_config()), token or sigstore.token())


def rules(sigstore: LocalSigstore, tmp_path: Path, text: str = "", **identity: Any) -> Policy:
    """A policy that trusts the build on the branch main; `text` are more sections."""
    sigstore.write(tmp_path)
    one = {"name": "ci", "issuer": sigstore.url, "subject": "https://ci.example/org/repo/*@refs/heads/main", **identity}
    given = f"identities: [{json.dumps(one)}]\ntrusted_root: trusted_root.json\n"
    return Policy.load(Policy.parse(given + text, "policy.yaml", tmp_path).dump())


def test_what_a_build_signed_is_trusted(sigstore: LocalSigstore, model: SignedModel, tmp_path: Path) -> None:
    """Every statement by one certificate; signing again adds nothing and logs nothing; verifying asks nobody."""
    made = sign(model, Settings(), [signer(sigstore)])
    assert len(made) == 5
    assert sigstore.said == ["/api/v2/signingCert", *["/api/v1/log/entries"] * 5]
    sigstore.said.clear()
    again = sign(model, Settings(), [signer(sigstore)])
    assert all(one.there for _, one in again)
    assert {one.digest for _, one in again} == {one.digest for _, one in made}
    assert sigstore.said == ["/api/v2/signingCert"]
    sigstore.said.clear()
    trusted = check(model.reference, rules(sigstore, tmp_path, f"require: {{statements: {EVERYTHING}}}\n"), Settings())
    assert trusted.signed["provenance"] == (f"ci: {SUBJECT} (issuer {sigstore.url})",)
    assert set(trusted.signed) == {"signature", "provenance", "verdict", "bom", "model"}
    assert not trusted.notes
    assert not sigstore.said


def test_keys_and_identities_stand_side_by_side(sigstore: LocalSigstore, model: SignedModel, tmp_path: Path) -> None:
    """Each counts once; both are two signers."""
    sign(model, Settings(), [key(), signer(sigstore)])
    shutil.copy(KEYS / "carwright.pub", tmp_path)
    text = POLICY.replace("require:\n", "require:\n  signers: 2\n")
    trusted = check(model.reference, rules(sigstore, tmp_path, text), Settings())
    assert trusted.signed["verdict"] == (f"ci: {SUBJECT} (issuer {sigstore.url})", "release")
    with pytest.raises(NotTrusted, match="by ci alone, and 2 signers"):
        check(model.reference, rules(sigstore, tmp_path, "require: {signers: 2}\n"), Settings())


@pytest.mark.parametrize(
    ("identity", "fragment"),
    [
        ({"issuer": "https://token.actions.githubusercontent.com"}, "and the issuer of 'ci' is https://token"),
        ({"subject": "https://ci.example/org/repo/*@refs/tags/*"}, "who is none of 'ci'"),
        ({"subject": "https://ci.example/org/repo/ship.yaml"}, "who is none of 'ci'"),
        ({"statements": ["verdict"]}, "'ci' may not sign a signature"),
        ({"until": "2020-01-01"}, "was trusted until 2020-01-01"),
        ({"since": "2099-01-01"}, "is trusted from 2099-01-01"),
    ],
)
def test_somebody_else_is_not_trusted(
    sigstore: LocalSigstore, model: SignedModel, tmp_path: Path, identity: dict[str, Any], fragment: str
) -> None:
    sign(model, Settings(), [signer(sigstore)])
    with pytest.raises(NotTrusted, match=fragment) as caught:
        check(model.reference, rules(sigstore, tmp_path, **identity), Settings())
    assert "has no signature signed as the policy demands" in caught.value.message


def test_the_log_knows_when(sigstore: LocalSigstore, model: SignedModel, tmp_path: Path) -> None:
    """Its date counts, not what the signature says; a certificate that had ended by then does not."""
    sign(model, Settings(), [signer(sigstore)], now=datetime.now(UTC) - timedelta(days=400))
    check(model.reference, rules(sigstore, tmp_path, "max_age_days: 2\n"), Settings())
    late = datetime.now(UTC) + timedelta(days=3)
    with (
        open_repository(model.reference, Settings()) as repository,
        pytest.raises(NotTrusted, match="more than the policy's 2 days ago"),
    ):
        check_image(repository, model.digest, rules(sigstore, tmp_path, "max_age_days: 2\n"), late)


def test_a_certificate_that_had_ended_signs_nothing(
    sigstore: LocalSigstore, model: SignedModel, tmp_path: Path
) -> None:
    """A log that dates an entry an hour late: the signer notices itself, and attaches nothing."""
    sigstore.log_delay = 3600
    with pytest.raises(NotTrusted, match=r"was logged at .*, and its certificate was good from"):
        sign(model, Settings(), [signer(sigstore)])
    with pytest.raises(NotTrusted, match="nothing signed is attached"):
        check(model.reference, rules(sigstore, tmp_path), Settings())


@pytest.mark.parametrize(
    ("claims", "fragment"),
    [
        ({"exp": 1_700_000_000}, "expired at 2023-11-14"),
        ({"aud": "somebody"}, "for the audience somebody, not for sigstore"),
        ({"aud": ["a", "b"]}, "not for sigstore"),
        ({"nbf": 4_000_000_000, "exp": 4_100_000_000}, "not valid yet"),
        ({"sub": None}, "says nothing about sub"),
        ({"exp": None}, "says nothing about exp"),
    ],
)
def test_a_token_that_is_not_sent(sigstore: LocalSigstore, claims: dict[str, Any], fragment: str) -> None:
    with pytest.raises(BadInput, match=fragment):
        signer(sigstore, sigstore.token(**claims))
    assert not sigstore.said


def test_what_is_no_token(sigstore: LocalSigstore, caplog: pytest.LogCaptureFixture) -> None:
    """It is said so without repeating it."""
    with pytest.raises(BadInput, match="cannot be read as a JSON Web Token") as caught:
        signer(sigstore, "canary.canary")
    assert "canary" not in str(caught.value) + caplog.text


def test_a_token_that_the_authority_does_not_take(sigstore: LocalSigstore) -> None:
    """The service's own words, and no token in them."""
    forged = LocalSigstore().token(iss=sigstore.url)
    with pytest.raises(BadInput, match="signingCert answered 401: There was an error processing") as caught:
        signer(sigstore, forged)
    assert forged not in str(caught.value)
    assert sigstore.said == ["/api/v2/signingCert"]


@pytest.mark.parametrize(
    ("path", "answer", "error", "fragment"),
    [
        ("/api/v2/signingCert", (503, "later"), Temporary, "signingCert answered 503: later"),
        ("/api/v2/signingCert", (429, "slow down"), Temporary, "answered 429"),
        ("/api/v2/signingCert", (200, "{}"), BadInput, "missing certificate chain"),
        ("/api/v2/signingCert", (200, "<html>"), BadInput, "something that is not JSON"),
        ("/api/v1/log/entries", (500, '{"code":500,"message":"full"}'), Temporary, "entries answered 500: full"),
        ("/api/v1/log/entries", (400, '{"code":400,"message":"no"}'), BadInput, "entries answered 400: no"),
        ("/api/v1/log/entries", (201, "{}"), BadInput, "cannot be used"),
    ],
)
def test_services_that_do_not_serve(
    sigstore: LocalSigstore,
    model: SignedModel,
    path: str,
    answer: tuple[int, str],
    error: type[Exception],
    fragment: str,
) -> None:
    sigstore.answers[path] = answer
    with pytest.raises(error, match=fragment):
        sign(model, Settings(), [signer(sigstore)])


def test_services_that_are_not_there(sigstore: LocalSigstore) -> None:
    with LocalSigstore() as gone:
        token, config = gone.token(), json.dumps(gone.trust_config())
    with pytest.raises(Temporary, match="cannot be reached"):
        KeylessSigner(config, token)


def test_a_token_is_not_sent_in_the_open(sigstore: LocalSigstore) -> None:
    config = json.dumps(sigstore.trust_config()).replace(f'"url": "{sigstore.url}"', '"url": "http://fulcio.example"')
    with pytest.raises(BadInput, match=r"names http://fulcio\.example, which is not reached by https"):
        KeylessSigner(config, sigstore.token())
    with pytest.raises(BadInput, match="says what to trust, and not where to sign"):
        KeylessSigner(json.dumps(sigstore.trusted_root()), sigstore.token())


def test_an_authority_that_the_configuration_does_not_know(sigstore: LocalSigstore) -> None:
    """The certificate is in the log of somebody else."""
    config = {**sigstore.trust_config(), "trustedRoot": LocalSigstore().trusted_root()}
    with pytest.raises(BadInput, match="not by whom the trust configuration names"):
        KeylessSigner(json.dumps(config), sigstore.token())


def test_the_token_of_a_ci_job(sigstore: LocalSigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    """GitHub's runner is asked, GitLab's variable is read; where there is none, it is said how to get one."""
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "GOOGLE_SERVICE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="there is no identity token") as caught:
        ambient_token()
    assert "id-token: write" in caught.value.remedy
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(BadInput, match="insufficient OIDC token permissions"):
        ambient_token()
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/token?v=1")
    sigstore_config = json.dumps(sigstore.trust_config())
    (one,) = open_keyless(SigningSettings(keyless=sigstore_config))
    assert one.name == f"{SUBJECT} ({sigstore.url})"
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", sigstore.token(email="someone@example.com"))
    (one,) = open_keyless(SigningSettings(keyless=sigstore_config))
    assert one.name == f"someone@example.com ({sigstore.url})"


def test_files_that_a_build_signed(sigstore: LocalSigstore, tmp_path: Path) -> None:
    """`model.sig` with a certificate; a changed file, and somebody else."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert sign_folder(folder, signer(sigstore))
    assert not sign_folder(folder, signer(sigstore))
    assert check_folder(folder, rules(sigstore, tmp_path)) == f"ci: {SUBJECT} (issuer {sigstore.url})"
    with pytest.raises(NotTrusted, match="who is none of 'ci'"):
        check_folder(folder, rules(sigstore, tmp_path, subject="https://ci.example/else/*"))
    with pytest.raises(NotTrusted, match="the policy names no identities"):
        check_folder(folder, Policy())
    (folder / "config.json").write_text("[]")
    with pytest.raises(NotTrusted, match=r"config\.json is"):
        check_folder(folder, rules(sigstore, tmp_path))


def test_the_command_line(
    sigstore: LocalSigstore, model: SignedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sign` and `verify --policy`: who signed is printed; somebody else is exit code 5; the token is nowhere."""
    token = sigstore.token()
    (tmp_path / "token").write_text(token + "\n")
    monkeypatch.setenv("CARWRIGHT_SIGN__KEYLESS", str(sigstore.write(tmp_path)))
    monkeypatch.setenv("CARWRIGHT_SIGN__IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["sign", model.reference]).output
    assert f"is signed by {SUBJECT} ({sigstore.url})" in " ".join(said.split())
    policy = tmp_path / "policy.yaml"
    who = f"identities: [{{name: ci, issuer: '{sigstore.url}', subject: '{SUBJECT}'}}]\n"
    policy.write_text(f"{who}trusted_root: trusted_root.json\n")
    said += CliRunner().invoke(app, ["verify", model.reference, "--policy", str(policy)]).output
    assert f"signature: signed by ci: {SUBJECT} (issuer {sigstore.url})" in " ".join(said.split())
    policy.write_text(policy.read_text().replace("refs/heads/main", "refs/heads/dev"))
    command = [sys.executable, "-m", "flows.cli.main", "verify", model.reference, "--policy", str(policy)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 5
    assert "who is none of 'ci'" in " ".join(ended.stderr.split())
    assert token not in said + ended.stdout + ended.stderr
    assert not list((tmp_path / "user").rglob("*sigstore*"))  # no cache of the library's in anybody's home


def test_a_certificate_for_two(sigstore: LocalSigstore) -> None:
    """Which of the two would be meant? It is refused, before anything is signed for it."""
    sigstore.also = "https://ci.example/org/other"
    try:
        with pytest.raises(BadInput, match="names 2 subjects and 1 issuers"):
            signer(sigstore)
    finally:
        sigstore.also = ""


@pytest.mark.campaign
def test_cosign_and_we_read_each_other(sigstore: LocalSigstore, tmp_path: Path) -> None:
    """cosign 3 (Debian's package) verifies what was signed here without a key; we verify what it signed so."""
    cosign = shutil.which("cosign")
    assert cosign, "cosign is not installed"
    sigstore.write(tmp_path)
    (tmp_path / "token").write_text(sigstore.token())
    (tmp_path / "signing.json").write_text(json.dumps(sigstore.trust_config()["signingConfig"]))
    (tmp_path / "predicate.json").write_text('{"buildDefinition":{},"runDetails":{"builder":{"id":"x"}}}')

    def run(verb: str, *words: str, good: bool = True) -> None:
        root = ("--trusted-root", str(tmp_path / "trusted_root.json"))
        argv = [cosign, verb, "--allow-http-registry", *root, *words]
        env = {**os.environ, "HOME": str(tmp_path)}
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert (ended.returncode == 0) is good, ended.stdout + ended.stderr

    with LocalRegistry(tmp_path / "registry") as address:
        ours = push(f"{address}/trust/ours:1", tmp_path / "ours", Settings()).reference
        theirs = push(f"{address}/trust/theirs:1", tmp_path / "theirs", Settings(), tokenizer='{"a":1}').reference
        with open_repository(ours, Settings(), write=True) as repository:
            digest = read_manifest(repository).digest
            signing.sign(repository, digest, tuple(statements("m", digest).values()), [signer(sigstore)])
        for subject, good in ((SUBJECT, True), ("https://ci.example/org/repo", False)):
            who = ("--certificate-identity", subject, "--certificate-oidc-issuer", sigstore.url)
            run("verify", *who, ours, good=good)
            for kind in ("slsaprovenance1", "cyclonedx", "https://in-toto.io/attestation/test-result/v0.1"):
                run("verify-attestation", "--type", kind, *who, ours, good=good)
        how = ("--yes", "--signing-config", str(tmp_path / "signing.json"), "--identity-token", str(tmp_path / "token"))
        run("sign", *how, theirs)
        run("attest", *how, "--type", "slsaprovenance1", "--predicate", str(tmp_path / "predicate.json"), theirs)
        wanted = rules(sigstore, tmp_path, "require: {statements: [signature, provenance]}\n")
        assert check(theirs, wanted, Settings()).signed["provenance"] == (f"ci: {SUBJECT} (issuer {sigstore.url})",)


@pytest.mark.campaign
def test_statements_that_the_public_sigstore_signed(tmp_path: Path) -> None:
    """Real ones, of builds on GitHub, GitLab and CircleCI: test data in the source package of PyPI's `pypi-attestations`.

    They are what PEP 740 makes of bundles. The root is the one that the library carries; those of the staging instance fail by it.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "pypi-attestations",
        "--dest",
        tmp_path,
    ]
    subprocess.run([*command, "pypi-attestations==0.0.30"], check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    assets = tmp_path / "pypi_attestations-0.0.30" / "test" / "assets"
    workflow = "https://github.com/trailofbits/pypi-attestations/.github/workflows/release.yml@refs/tags/v0.0.19"
    project = "https://circleci.com/api/v2/projects/fdd9283f-e619-46af-8f9c-851f7d3e8b2b"
    for name, subject, issuer in (
        ("pypi_attestations-0.0.19.tar.gz.publish", workflow, "https://token.actions.githubusercontent.com"),
        ("pypi_attestations-0.0.19.tar.gz.slsa", workflow, "https://token.actions.githubusercontent.com"),
        (
            "gitlab_oidc_project-0.0.3.tar.gz.publish",
            "https://gitlab.com/facutuesca/gitlab-oidc-project//.gitlab-ci.yml@refs/heads/main",
            "https://gitlab.com",
        ),
        (
            "circleci_sign_publish_example-0.0.1.dev137-py3-none-any.whl.publish",
            f"{project}/pipeline-definitions/8e4f8ab2-8d7c-4827-9f15-de076d6d647f",
            "https://oidc.circleci.com",
        ),
    ):
        bundle = _bundle_of(assets / f"{name}.attestation")
        found = certified.verify(bundle, certified.public_root(), name)
        assert (found.subject, found.issuer) == (subject, issuer)
        assert found.logged.year in {2024, 2026}
        (file,) = json.loads(found.payload)["subject"]
        assert file["digest"]["sha256"] == hashlib.sha256((assets / file["name"]).read_bytes()).hexdigest()
        changed = json.loads(bundle)
        changed["dsseEnvelope"]["payload"] = base64.b64encode(found.payload.replace(b"_type", b"_tYpe")).decode()
        with pytest.raises(NotTrusted, match="was changed after it was signed"):
            certified.verify(json.dumps(changed).encode(), certified.public_root(), name)
    staged = _bundle_of(assets / "rfc8785-0.1.2-py3-none-any.whl.publish.attestation")
    with pytest.raises(NotTrusted, match="authority that the trusted root does not know"):
        certified.verify(staged, certified.public_root(), "b")


def _bundle_of(path: Path) -> bytes:
    """The bundle that an attestation of PEP 740 was made of."""
    told = json.loads(path.read_text())
    material, envelope = told["verification_material"], told["envelope"]
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "certificate": {"rawBytes": material["certificate"]},
                "tlogEntries": material["transparency_entries"],
            },
            "dsseEnvelope": {
                "payload": envelope["statement"],
                "payloadType": IN_TOTO,
                "signatures": [{"sig": envelope["signature"]}],
            },
        }
    ).encode()
