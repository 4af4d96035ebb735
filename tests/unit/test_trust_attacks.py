"""What somebody tries who controls a policy's gaps, a layout, a tag between two looks, or one of two signers' keys."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from containers.contract import Kind
from containers.digest import Digest
from containers.errors import BadInput, Error, NotTrusted
from containers.events import Reporter
from containers.in_toto import PROVENANCE
from containers.oci.access import open_repository, resolve
from containers.oci.repository import found
from containers.oci.types import INDEX, ImageManifest, Index, Platform, parse_manifest
from containers.parameters import ServeOptions
from containers.serve.trust import check_files
from containers.step import Context
from containers.store import Manifest
from containers.store.manifest import FileEntry
from containers.trust import signing
from containers.trust.attach import attach, find_bundles
from containers.trust.model_signing import check_folder, listed_in, sign_folder, statement
from containers.trust.policy import Identity, Policy
from containers.trust.signing import statement_signer
from containers.trust.statement import ForeignStatement, write
from containers.trust.verify import check, check_base
from flows.admission import admit
from flows.cli.main import app
from flows.cli.trust import check_signed
from flows.watching import scan
from infra.settings import Settings
from tests.support.trust_world import COMMIT, KEYS, POLICY, SignedModel, policy, push, sign, signer, statements

if TYPE_CHECKING:
    from pathlib import Path

KEY = "keys:\n  - name: release\n    file: carwright.pub\n"
TWO = "keys: [{name: a, file: carwright.pub}, {name: b, file: cosign.pub}]\n"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> SignedModel:
    """A signed model in a layout."""
    folder = tmp_path_factory.mktemp("shelf")
    made = push(f"oci:{folder}/image:1", folder / "checkpoint", Settings())
    sign(made, Settings())
    return made


@pytest.fixture
def model(shelf: SignedModel, tmp_path: Path) -> SignedModel:
    """It, in a layout of its own."""
    for name in ("image", "checkpoint"):
        shutil.copytree(shelf.checkpoint.with_name(name), tmp_path / name)
    return SignedModel(f"oci:{tmp_path}/image@{shelf.digest}", shelf.digest, tmp_path / "checkpoint")


def other(model: SignedModel, tmp_path: Path) -> SignedModel:
    """Another one in the same layout, under the tag 2."""
    shutil.copytree(model.checkpoint, tmp_path / "changed", dirs_exist_ok=True)
    return push(f"oci:{tmp_path}/image:2", tmp_path / "changed", Settings(), tokenizer='{"another": true}')


# The policy's text


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (f"{KEY}deny: ['sha256:{'0' * 64}']\nmax_age_days: 3\ndeny: []\n", "line 6.*deny is there twice"),
        (f"{KEY}max_age_days: 9999999999999\n", "line 4: max_age_days"),
        (f"{KEY}require:\n  signers: 2\n  statements: [verdict]\n  signers: 1\n", "line 7.*signers is there twice"),
        (f"{KEY}    statements: [verdict]\n    statements: []\n", "line 5.*statements is there twice"),
    ],
)
def test_a_rule_that_would_not_hold_is_refused(text: str, fragment: str) -> None:
    """Of two the later one would silently win, and the one above it would look as if it held."""
    with pytest.raises(BadInput, match=fragment):
        Policy.parse(text, "p.yaml", KEYS)


@pytest.mark.parametrize("field", ["gate", "base", "recipe", "base_images", "max_age_days", "repositories", "deny"])
def test_a_rule_without_a_value_is_refused(field: str) -> None:
    """`gate:` whose lines are comments would demand nothing."""
    with pytest.raises(BadInput, match=f"line 4: {field}"):
        Policy.parse(f"{KEY}{field}:\n#  decisions: [pass]\n", "p.yaml", KEYS)
    with pytest.raises(BadInput, match=r"line 4: keys\.0\.until"):
        Policy.parse(f"{KEY}    until:\n", "p.yaml", KEYS)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("repositories: []\n", "repositories"),
        ("base: {sources: []}\n", "base.sources"),
        ("base: {revisions: []}\n", "base.revisions"),
        ("recipe: {schemes: []}\n", "recipe.schemes"),
        ("gate: {suites: []}\n", "gate.suites"),
        ("gate: {decisions: []}\n", "gate.decisions"),
    ],
)
def test_an_empty_list_of_what_is_allowed_is_refused(text: str, field: str) -> None:
    """It reads as if nothing were allowed, and everything was."""
    with pytest.raises(BadInput, match=f"line 4: {field}"):
        Policy.parse(KEY + text, "p.yaml", KEYS)


@pytest.mark.parametrize(
    ("pattern", "subject", "fits"),
    [
        # Whoever may push a branch may call it x@refs/heads/main.
        (
            "https://github.com/o/r/*@refs/heads/main",
            "https://github.com/o/r/w.yml@refs/heads/x@refs/heads/main",
            False,
        ),
        ("https://github.com/o/*@refs/heads/main", "https://github.com/o/r/w.yml@refs/tags/x@refs/heads/main", False),
        ("https://github.com/o/*@refs/heads/main", "https://github.com/o/r/w.yml@refs/heads/main", True),
        ("https://github.com/o/r/w.yml@refs/heads/*", "https://github.com/o/r/w.yml@refs/heads/a@b", True),
        ("https://github.com/o/*", "https://github.com/o/r/w.yml@refs/heads/a@b", True),
        ("https://github.com/o/*.yml", "https://github.com/o/r/w.yml@refs/heads/x.yml", False),
    ],
)
def test_a_branch_cannot_name_itself_as_another(pattern: str, subject: str, fits: bool) -> None:
    assert Identity(name="a", issuer="https://i", subject=pattern).fits(subject) is fits


# The image


def test_the_files_signature_alone_lets_no_image_pass(model: SignedModel, tmp_path: Path) -> None:
    """An image may list the files of another, and hold what it likes: only a statement about its digest is about it."""
    rules = policy(f"{KEY}require: {{statements: [model]}}\n")
    assert check(model.reference, rules, Settings()).digest == model.digest
    with open_repository(model.reference, Settings(), write=True) as repository:
        honest = found(repository, str(model.digest)).parse()
        assert isinstance(honest, ImageManifest)
        evil = honest.model_copy(update={"annotations": {"evil": "entry point"}}).encode()
        digest = repository.put(evil, honest.media_type)
        about = statement("m", check(model.reference, rules, Settings()).files)
        attach(repository, digest, about, statement_signer(signer()), ())
    with pytest.raises(NotTrusted, match="has no signature signed as the policy demands"):
        check(str(model.target.at(digest)), rules, Settings())


def test_a_list_of_no_files_is_no_signature_of_a_model(tmp_path: Path) -> None:
    """It would fit every image that lists none."""
    with pytest.raises(BadInput, match="lists no files"):
        listed_in(ForeignStatement.parse(statement("m", {}), "s"), "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no files"):
        sign_folder(tmp_path / "empty", statement_signer(signer()))


def test_one_of_two_signers_cannot_make_an_old_model_new(model: SignedModel) -> None:
    """Of two that must sign, each must have signed lately."""
    rules = policy(f"{TWO}require: {{signers: 2}}\nmax_age_days: 30\n")
    now, long_ago = datetime.now(UTC), datetime.now(UTC) - timedelta(days=90)
    again = push(str(model.target.tagged("old")), model.checkpoint, Settings(), tokenizer="[1]")
    sign(again, Settings(), [signer(), signer("cosign")], now=long_ago)
    sign(again, Settings(), [signer("cosign")], renew=True, now=now)
    with pytest.raises(NotTrusted, match="more than the policy's 30 days ago"):
        check(again.reference, rules, Settings())
    sign(again, Settings(), [signer()], renew=True, now=now)
    assert check(again.reference, rules, Settings()).signed["signature"] == ("a", "b")


def test_an_index_around_a_denied_image_is_denied(model: SignedModel) -> None:
    with open_repository(model.reference, Settings(), write=True) as repository:
        inner = found(repository, str(model.digest)).descriptor
        entry = inner.model_copy(update={"platform": Platform(architecture="amd64", os="linux")})
        digest = repository.put(Index(manifests=(entry,)).encode(), INDEX, "index")
        signing.sign(repository, digest, (), [signer()])
        around = str(model.target.at(digest))
        text = f"{KEY}base_images: [{{repository: '*', keys: [release]}}]\n"
        assert check(around, policy(text), Settings()).digest == digest
        check_base(repository, digest, policy(text))
        denied = policy(f"{text}deny: ['{model.digest}']\n")
        with pytest.raises(NotTrusted, match="deny list"):
            check(around, denied, Settings())
        with pytest.raises(NotTrusted, match="deny list"):
            check_base(repository, digest, denied)
        with pytest.raises(NotTrusted, match="deny list"):  # without rules for base images, too
            check_base(repository, digest, policy(f"{KEY}deny: ['{digest}']\n"))


def test_an_index_need_not_hold_all_that_it_names_for_the_deny_list(model: SignedModel) -> None:
    """A base image copied for one platform, as mirrors do: its other images are names alone, and denied by these."""
    absent = Digest("d" * 64)
    with open_repository(model.reference, Settings(), write=True) as repository:
        here = found(repository, str(model.digest)).descriptor
        there = here.model_copy(update={"digest": absent, "platform": Platform(os="linux", architecture="s390x")})
        digest = repository.put(Index(manifests=(here, there)).encode(), INDEX, "sparse")
        check_base(repository, digest, policy(f"{KEY}deny: ['sha256:{'0' * 64}']\n"))
        with pytest.raises(NotTrusted, match=f"deny list, as the image sha256:{absent.hex} in it"):
            check_base(repository, digest, policy(f"{KEY}deny: ['{absent}']\n"))


@pytest.mark.parametrize("kind", ["index", "manifest"])
def test_a_manifest_that_is_also_an_index_is_refused(shelf: SignedModel, kind: str) -> None:
    """Two programs would read two images from the bytes of one signed digest (CVE-2021-41190)."""
    with open_repository(shelf.reference, Settings()) as repository:
        value = json.loads(found(repository, str(shelf.digest)).content)
    both = {**value, "manifests": []} if kind == "manifest" else {"schemaVersion": 2, "manifests": [], "layers": []}
    with pytest.raises(BadInput, match="both an image and an index"):
        parse_manifest(json.dumps(both).encode(), "it")
    with pytest.raises(BadInput, match="says that it is"):
        parse_manifest(json.dumps({**value, "mediaType": INDEX}).encode(), "it")


def test_the_provenance_of_two_bases_is_held_against_the_policy_whole(model: SignedModel, tmp_path: Path) -> None:
    told = {
        "buildDefinition": {
            "externalParameters": {"model": "hf://org/model", "revision": "main", "scheme": "FP8_DYNAMIC"},
            "resolvedDependencies": [
                {"name": "base model", "uri": f"hf://org/model@{COMMIT}", "digest": {"gitCommit": COMMIT}},
                {"name": "base model", "uri": f"hf://evil/model@{COMMIT}", "digest": {"gitCommit": COMMIT}},
            ],
        }
    }
    _refused_as(other(model, tmp_path), told, "its base model is hf://evil/model")


@pytest.mark.parametrize("also", [False, True])
def test_no_statement_about_another_image_is_signed(model: SignedModel, tmp_path: Path, *, also: bool) -> None:
    """Whoever gives a statement to be attached here would have it signed for an image that was never looked at."""
    made, digest = other(model, tmp_path), Digest("0" * 64)
    subjects = [("m", made.digest), ("m", digest)] if also else [("m", digest)]
    said = {"provenance": write(subjects, PROVENANCE, {})}
    with pytest.raises(BadInput, match=f"about {digest}"):
        sign(made, Settings(), statements=said)
    with open_repository(made.reference, Settings()) as repository:
        assert find_bundles(repository, made.digest) == ()


def test_no_list_of_files_is_signed_as_a_statement(model: SignedModel, tmp_path: Path) -> None:
    """What a model's files are is read from the image."""
    made = other(model, tmp_path)
    with pytest.raises(BadInput, match="lists files"):
        sign(made, Settings(), statements={"model": statement("m", {"config.json": made.digest})})


@pytest.mark.parametrize("source", ["file:///models/org@x/../../evil", "hf://org/../evil/model"])
def test_a_source_does_not_leave_what_is_allowed(model: SignedModel, tmp_path: Path, source: str) -> None:
    """A folder's name may hold an @, which ends a repository's name on the hub and nothing else."""
    told = {
        "buildDefinition": {
            "externalParameters": {"model": source, "revision": "main", "scheme": "FP8_DYNAMIC"},
            "resolvedDependencies": [{"name": "base model", "uri": source}],
        }
    }
    rules = POLICY.replace('"hf://org/*"', '"hf://org/*", "file:///models/org*"')
    _refused_as(other(model, tmp_path), told, "its base model is", rules)


def _refused_as(made: SignedModel, provenance: dict[str, Any], fragment: str, rules: str = POLICY) -> None:
    place = str(made.target)
    sign(made, Settings(), statements=statements(place, made.digest, provenance=provenance))
    with pytest.raises(NotTrusted, match=fragment):
        check(made.reference, policy(rules), Settings())


def test_a_field_has_one_spelling() -> None:
    """Other verifiers read `predicateType` alone."""
    told = json.loads(write([("m", Digest("0" * 64))], PROVENANCE, {}))
    told["predicate_type"] = told.pop("predicateType")
    with pytest.raises(BadInput, match="predicateType: Field required"):
        ForeignStatement.parse(json.dumps(told).encode(), "it")


def test_a_suite_is_known_by_its_digest(model: SignedModel, tmp_path: Path) -> None:
    """A folder may be called as a suite that Carwright brings."""
    made, ours, easy = other(model, tmp_path), Digest("1" * 64), Digest("2" * 64)
    told = {"suite": "smoke", "configuration": [{"name": "suite smoke", "digest": {"sha256": easy.hex}}]}
    sign(made, Settings(), statements=statements(str(made.target), made.digest, verdict=told))
    assert check(made.reference, policy(), Settings()).digest == made.digest
    assert check(made.reference, policy(POLICY.replace("[smoke]", f"['{easy}']")), Settings()).digest == made.digest
    with pytest.raises(NotTrusted, match=f"by the suite smoke {easy}"):
        check(made.reference, policy(POLICY.replace("[smoke]", f"['{ours}']")), Settings())


# A layout whose index.json is somebody else's


def test_a_name_in_a_layout_is_no_digest(model: SignedModel, tmp_path: Path) -> None:
    """An entry that is called by the digest of another image stood for it."""
    evil = other(model, tmp_path)
    path = tmp_path / "image" / "index.json"
    index = json.loads(path.read_text())
    entry = next(one for one in index["manifests"] if one["digest"] == str(evil.digest))
    entry["annotations"] = {"org.opencontainers.image.ref.name": str(model.digest)}
    index["manifests"].sort(key=lambda one: one is not entry)
    path.write_text(json.dumps(index))
    assert resolve(model.reference, Settings()) == model.digest
    with open_repository(model.reference, Settings()) as repository:
        assert found(repository, str(model.digest)).digest == model.digest


# Between two looks


def test_a_tag_that_moves_after_the_policy_was_asked(model: SignedModel, tmp_path: Path, monkeypatch: Any) -> None:
    """`verify` reads the bytes of the very digest whose signatures it has checked."""
    evil = other(model, tmp_path)

    def then_moved(*arguments: Any, **options: Any) -> Any:
        trusted = check(*arguments, **options)
        with open_repository(evil.reference, Settings(), write=True) as repository:
            stored = found(repository, str(evil.digest))
            repository.put(stored.content, stored.media_type, "1")
        return trusted

    monkeypatch.setattr("flows.cli.modelcars.check_trust", then_moved)
    ended = CliRunner().invoke(
        app, ["verify", str(model.target.tagged("1")), "--key", f"{KEYS}/carwright.pub", "--json"]
    )
    assert json.loads(ended.stdout)["digest"] == str(model.digest)


def test_a_policy_that_nobody_gave_here_is_named(model: SignedModel, tmp_path: Path) -> None:
    """`signed by release` says little where the folder that one stands in says who that is."""
    (tmp_path / "policy.yaml").write_text(KEY)
    shutil.copy(KEYS / "carwright.pub", tmp_path)
    said: list[str] = []
    assert admit(model.reference, None, Settings(trust={"policy": tmp_path / "policy.yaml"}), said.append) is not None
    assert said == [f"policy: {tmp_path}/policy.yaml", "signature: signed by release"]


def test_a_base_whose_tag_moves_while_it_is_asked_about(model: SignedModel, tmp_path: Path, monkeypatch: Any) -> None:
    """The watcher builds on the very digest that the policy let pass."""
    evil = other(model, tmp_path)
    place = f"oci:{tmp_path}/image:1"
    (tmp_path / "policy.yaml").write_text(f"{KEY}base_images: [{{repository: '*', keys: [release]}}]\n")
    shutil.copy(KEYS / "carwright.pub", tmp_path)
    settings = Settings(trust={"policy": tmp_path / "policy.yaml"})
    assert scan._base(place, settings).digest == str(model.digest)
    moved = _moving(place, evil, model)
    monkeypatch.setattr(scan, "open_repository", moved)
    state = scan._base(place, settings)
    assert state.error is not None or state.digest == str(model.digest)


def _moving(place: str, first: SignedModel, then: SignedModel) -> Any:
    """A repository whose tag gives one image when it is asked the first time, and another from then on."""

    def opened(reference: Any, settings: Any, **options: Any) -> Any:
        repository = open_repository(reference, settings, **options)
        plain, asked = repository.get, []

        def get(what: str) -> Any:
            if ":" in what:
                return plain(what)
            asked.append(what)
            return plain(str((first if len(asked) == 1 else then).digest))

        repository.get = get  # type: ignore[method-assign]
        return repository

    return opened


# The serving host, and folders


@pytest.mark.parametrize("name", [".github/modeling.py", ".git/config", "model.sig/evil.json", "model.sig"])
def test_nothing_is_added_where_signatures_do_not_look(model: SignedModel, tmp_path: Path, name: str) -> None:
    """A signature of a folder leaves git's files out. What vLLM reads is held against the image's own list, which is whole."""
    served = tmp_path / "served"
    shutil.copytree(model.checkpoint, served)
    files = check(model.reference, policy(), Settings()).files
    settings = Settings()
    context = Context(settings, Reporter(StringIO(), structured=True), tmp_path, tmp_path / "r.json")
    check_files(served, ServeOptions(files=files), context)
    (served / name).parent.mkdir(parents=True, exist_ok=True)
    (served / name).write_text("evil")
    with pytest.raises(NotTrusted, match=f"{name} was not signed"):
        check_files(served, ServeOptions(files=files), context)


def test_a_policy_that_wants_two_signers_takes_no_folder_with_one(model: SignedModel) -> None:
    sign_folder(model.checkpoint, statement_signer(signer()))
    assert check_folder(model.checkpoint, policy(TWO)) == "a"
    with pytest.raises(NotTrusted, match="2 signers are wanted"):
        check_folder(model.checkpoint, policy(f"{TWO}require: {{signers: 2}}\n"))


def test_a_folder_named_as_the_signature_is_looked_into(model: SignedModel, tmp_path: Path) -> None:
    sign_folder(model.checkpoint, statement_signer(signer()))
    signature = tmp_path / "elsewhere.sig"
    (model.checkpoint / "model.sig").rename(signature)
    check_folder(model.checkpoint, policy(KEY), signature)
    (model.checkpoint / "model.sig").mkdir()
    (model.checkpoint / "model.sig" / "evil.py").write_text("")
    with pytest.raises(NotTrusted, match=r"model\.sig/evil\.py was not signed"):
        check_folder(model.checkpoint, policy(KEY), signature)


def test_a_file_whose_name_is_no_text(model: SignedModel) -> None:
    (model.checkpoint / os.fsdecode(b"\xff.json")).touch()
    with pytest.raises(Error, match="cannot be written"):
        sign_folder(model.checkpoint, statement_signer(signer()))


def test_a_source_cannot_leave_out_what_was_signed() -> None:
    """Pickles and code stay behind, as ever; a configuration that is gone is missed."""
    left = ("pytorch_model.bin", "modeling.py", ".gitignore")
    kept = ("config.json", "generation_config.json", "model.safetensors")
    wanted = {name: Digest.of(name.encode()) for name in (*kept, *left)}
    files = [FileEntry(path=one, size=1, sha256=wanted[one]) for one in kept]
    whole = Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=tuple(files))
    check_signed(whole, wanted, "hf://org/model")
    with pytest.raises(NotTrusted, match=r"generation_config\.json is missing"):
        check_signed(whole.model_copy(update={"files": (files[0], files[2])}), wanted, "hf://org/model")


def test_what_a_folder_does_not_answer_is_said(model: SignedModel, tmp_path: Path) -> None:
    sign_folder(model.checkpoint, statement_signer(signer()))
    (tmp_path / "policy.yaml").write_text(POLICY)
    shutil.copy(KEYS / "carwright.pub", tmp_path)
    ended = CliRunner().invoke(app, ["verify", str(model.checkpoint), "--policy", str(tmp_path / "policy.yaml")])
    assert ended.exit_code == 0
    told = " ".join(ended.output.split())
    assert "does not answer the policy's provenance, verdict, bom, base, recipe, gate, max_age_days" in told
