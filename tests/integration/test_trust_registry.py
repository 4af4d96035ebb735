"""Signatures in a real registry: ours, read by us and by cosign; cosign's, read by us."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from containers.errors import NotTrusted
from containers.oci.access import open_repository
from containers.oci.repository import Blob, found, read_small
from containers.oci.types import ImageManifest
from containers.trust import signing, simplesigning
from containers.trust.attach import find_bundles
from containers.trust.verify import check, check_base
from flows.targets import policies
from infra.settings import Settings
from tests.support.local_registry import LocalRegistry
from tests.support.trust_world import KEYS, PASSWORD, POLICY, SignedModel, policy, push, sign, signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
ANY = "keys: [{{name: k, file: {}.pub}}]\nrequire: {{statements: [signature, provenance]}}\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def model(registry: str, tmp_path: Path) -> SignedModel:
    return push(f"{registry}/trust/{tmp_path.name.lower()}:1", tmp_path / "checkpoint", Settings())


def test_what_is_signed_passes_and_signing_again_adds_nothing(model: SignedModel) -> None:
    """Two keys sign; each adds its own, once, and the digest is what it was."""
    settings = Settings()
    with pytest.raises(NotTrusted, match=r"no signature signed as the policy demands.*nothing signed is attached"):
        check(model.reference, policy(), settings)
    first = sign(model, settings)
    assert [name.split()[0] for name, _ in first] == ["provenance", "verdict", "bom", "signature", "tag", "model"]
    assert all(one.there for _, one in sign(model, settings))
    trusted = check(model.reference, policy(), settings)
    assert trusted.signed["provenance"] == ("release",)
    assert set(trusted.files) == {
        path.relative_to(model.checkpoint).as_posix() for path in model.checkpoint.rglob("*") if path.is_file()
    }
    sign(model, settings, [signer("cosign")])
    two = policy(
        "keys: [{name: a, file: carwright.pub}, {name: b, file: cosign.pub}]\n"
        "require: {statements: [signature, verdict], signers: 2}\n"
    )
    assert check(model.reference, two, settings).signed["verdict"] == ("a", "b")


def test_two_that_sign_at_once_both_stay(model: SignedModel) -> None:
    """The fallback tag and cosign's tag are written by both."""
    both = [threading.Thread(target=sign, args=(model, Settings(), [signer(name)])) for name in ("carwright", "cosign")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    with open_repository(model.reference, Settings()) as repository:
        assert len(find_bundles(repository, model.digest)) == 10
        assert len(simplesigning.find(repository, model.digest)) == 2


def test_a_layout_is_signed_too(tmp_path: Path) -> None:
    """Without the tag, which nobody reads there."""
    model = push(f"oci:{tmp_path}/image:1", tmp_path / "checkpoint", Settings())
    made = sign(model, Settings())
    assert [name.split()[0] for name, _ in made] == ["provenance", "verdict", "bom", "signature", "model"]
    assert check(model.reference, policy(), Settings()).digest == model.digest


@pytest.mark.campaign
def test_podman_and_skopeo_pull_what_is_signed_and_nothing_else(
    registry: str, model: SignedModel, tmp_path: Path
) -> None:
    """Under the rendered policy: refused are the unsigned, the wrongly signed and one with another's signature.

    Debian 12 builds both without sigstore ("Debian-local change: sigstore disabled"); those of Debian 13 pass.
    """
    rules = tmp_path / "rules"
    text = f"keys: [{{name: k, file: carwright.pub}}]\nrepositories: ['{registry}/*']\n"
    rendered = policies.render("podman", policy(text))
    rules.mkdir()
    etc = tmp_path / "etc"
    shutil.copytree("/etc/containers", etc)
    for file in rendered.files:
        (rules / file.name).write_text(file.text)
    shutil.copytree(rules, etc / "registries.d", dirs_exist_ok=True)
    (etc / "registries.d" / "policy.json").unlink()
    assert "the provenance" not in rendered.notes[-1]

    def skopeo(reference: str) -> str:
        argv = ["skopeo", "--policy", str(rules / "policy.json"), "--registries.d", str(rules), "copy", "-q"]
        argv += ["--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path}/copied"]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False)
        return "" if ended.returncode == 0 else ended.stderr

    def podman(reference: str) -> str:
        storage = tempfile.mkdtemp(prefix="trust-", dir=tmp_path.anchor + "tmp")  # podman takes no long --runroot
        pull = ["podman", f"--root={storage}/r", f"--runroot={storage}/u", "--storage-driver=vfs", "pull", "-q"]
        pull += [f"--signature-policy={rules}/policy.json", "--tls-verify=false", reference]
        mounted = f"mount --bind {etc} /etc/containers && exec {shlex.join(pull)}"
        try:
            ended = subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, text=True, check=False)
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        return "" if ended.returncode == 0 else ended.stderr

    assert "no signature exists" in skopeo(model.reference)
    assert "no signature exists" in podman(model.reference)
    sign(model, Settings(), [signer("cosign")])
    assert "cryptographic signature verification failed" in skopeo(model.reference)
    sign(model, Settings())
    assert skopeo(model.reference) == ""
    assert podman(model.reference) == ""
    other = push(f"{registry}/trust/other:1", tmp_path / "other", Settings(), tokenizer='{"another": 1}')
    with (
        open_repository(model.reference, Settings()) as ours,
        open_repository(other.reference, Settings(), write=True) as theirs,
    ):
        stored = found(ours, simplesigning.signature_tag(model.digest))
        manifest = stored.parse()
        assert isinstance(manifest, ImageManifest)
        for one in manifest.blobs:
            theirs.put_blob(Blob.of(read_small(ours, one)), lambda _: None)
        theirs.put(stored.content, stored.media_type, simplesigning.signature_tag(other.digest))
    assert "does not match" in (refused := skopeo(other.reference)), refused


@pytest.mark.campaign
def test_cosign_and_we_read_each_other(model: SignedModel, tmp_path: Path) -> None:
    """cosign 2.5 (Debian 13's package) verifies image and statements made here; we verify what it signed."""
    cosign = shutil.which("cosign")
    assert cosign, "cosign is not installed"

    def run(*words: str, verb: str, good: bool = True) -> str:
        env = {**os.environ, "COSIGN_PASSWORD": PASSWORD, "HOME": str(tmp_path)}
        argv = [cosign, verb, "--allow-http-registry", *words, model.reference]
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert (ended.returncode == 0) is good, ended.stdout + ended.stderr
        return ended.stdout

    sign(model, Settings())
    (tmp_path / "root.json").write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    bundles = ("--insecure-ignore-tlog", "--new-bundle-format", "--trusted-root", str(tmp_path / "root.json"))
    for key, good in (("carwright", True), ("other", False)):
        run("--insecure-ignore-tlog", "--key", f"{KEYS}/{key}.pub", verb="verify", good=good)
        for kind in ("slsaprovenance1", "cyclonedx", "https://in-toto.io/attestation/test-result/v0.1"):
            run(*bundles, "--type", kind, "--key", f"{KEYS}/{key}.pub", verb="verify-attestation", good=good)
    with pytest.raises(NotTrusted):
        check(model.reference, policy(ANY.format("cosign")), Settings())
    ours = ("--key", f"{KEYS}/cosign.key", "--tlog-upload=false", "--yes")
    (tmp_path / "predicate.json").write_text(
        json.dumps({"buildDefinition": {}, "runDetails": {"builder": {"id": "x"}}})
    )
    run(*ours, verb="sign")
    run(
        *ours,
        "--new-bundle-format",
        "--type",
        "slsaprovenance1",
        "--predicate",
        str(tmp_path / "predicate.json"),
        verb="attest",
    )
    assert check(model.reference, policy(ANY.format("cosign")), Settings()).signed["provenance"] == ("k",)


def test_nothing_is_deployed_served_or_verified_that_does_not_pass(model: SignedModel, tmp_path: Path) -> None:
    """Exit code 5, before an engine is asked or a byte of the model is fetched."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    shutil.copy(KEYS / "carwright.pub", tmp_path)
    argv = {
        "verify": ["verify", model.reference],
        "deploy": ["deploy", "docker", model.reference, "--gpu", "cpu"],
        "serve": ["serve", model.reference],
    }

    def run(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli.main", *argv[what], "--policy", str(tmp_path / "policy.yaml")]
        env = {**os.environ, "CARWRIGHT_HOME": str(tmp_path / "home"), "DOCKER_HOST": "unix:///nowhere"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    for what in argv:
        ended = run(what)
        assert ended.returncode == 5, ended.stderr
        assert "nothing signed is attached to it" in ended.stderr
        assert not (tmp_path / "home" / "serving").exists()
    sign(model, Settings())
    assert run("verify").returncode == 0
    ended = run("deploy")  # the policy lets it through to the next check, which finds no container engine
    assert "signature: signed by release" in ended.stderr
    assert "CARWRIGHT_LAUNCHER=process works without one" in ended.stderr


def test_base_images_are_held_against_the_policy(model: SignedModel) -> None:
    """What the watcher asks before it announces a rebuild on a new base image."""
    rules = policy(
        "keys: [{name: k, file: carwright.pub}, {name: other, file: cosign.pub}]\n"
        f"base_images: [{{repository: '{model.target.registry}/trust/*', keys: [k]}}]\n"
    )
    with open_repository(model.reference, Settings(), write=True) as repository:
        with pytest.raises(NotTrusted, match="signed by none of k"):
            check_base(repository, model.digest, rules)
        signing.sign(repository, model.digest, (), [signer("cosign")])
        with pytest.raises(NotTrusted, match="signed by none of k"):
            check_base(repository, model.digest, rules)
        signing.sign(repository, model.digest, (), [signer()])
        check_base(repository, model.digest, rules)
        check_base(repository, model.digest, policy())  # one without rules for base images says nothing
        with pytest.raises(NotTrusted, match="under none of the policy's base_images"):
            check_base(repository, model.digest, policy(rules_for("quay.io/*")))


def rules_for(repository: str) -> str:
    return f"keys: [{{name: k, file: carwright.pub}}]\nbase_images: [{{repository: '{repository}', keys: [k]}}]\n"
