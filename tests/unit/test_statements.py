"""Whoever may push can attach a report or a card to an image: whose statement is shown, and whose is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from containers import in_toto
from containers.digest import Digest
from containers.errors import BadInput
from containers.oci import raw, referrers
from containers.oci.access import open_repository
from containers.oci.referrers import CARD, SEQUENCE, Attachment
from containers.oci.repository import Blob, image
from containers.oci.types import Descriptor, ImageManifest
from containers.push.work import tag_raw
from flows.cli.main import app
from flows.release.statements import of_reference
from infra.settings import Settings
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

OURS, THEIRS = b"# ours\n", b"# theirs\n"
# What somebody else says of the number of his referrer.
ATTACKS = ["2", "999999999", "9" * 5000, "-1", "", "1e9", "\u0664\u0662", "0x10", " 7", "7\n", "inf", "nan"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache")


@pytest.fixture
def car(tmp_path: Path, settings: Settings) -> tuple[str, Digest]:
    """An image in a layout with our card, numbered as promotion numbers it."""
    reference = f"oci:{tmp_path}/car"
    digest = push_folder(write_checkpoint(tmp_path / "checkpoint"), f"{reference}:v1", settings).digest
    with open_repository(reference, settings, write=True) as repository:
        referrers.renew(repository, digest, CARD, [Attachment("README.md", "text/markdown", OURS)])
    return f"{reference}@{digest}", digest


def attach(car: tuple[str, Digest], settings: Settings, content: bytes, sequence: str) -> Digest:
    with open_repository(car[0], settings, write=True) as repository:
        files = [Attachment("README.md", "text/markdown", content)]
        return referrers.attach(repository, car[1], CARD, files, {SEQUENCE: sequence})[0]


def record(settings: Settings, run: str, car: tuple[str, Digest], card: Digest) -> None:
    path = settings.home / "runs" / run / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"shipped": {"digest": str(car[1]), "attached": {"card": str(card)}}}))


def ours(car: tuple[str, Digest], settings: Settings) -> Digest:
    with open_repository(car[0], settings) as repository:
        return next(
            one.digest for one, man in referrers.manifests(repository, car[1], CARD) if man.layers[0].size == len(OURS)
        )


@pytest.mark.parametrize("sequence", ATTACKS, ids=lambda text: repr(text[:12]))
def test_a_number_decides_nothing(sequence: str, car: tuple[str, Digest], settings: Settings) -> None:
    theirs = attach(car, settings, THEIRS, sequence)
    with pytest.raises(BadInput, match=r"2 attached README\.md, which differ") as caught:
        of_reference(car[0], settings, CARD, "README.md", name="card")
    assert str(theirs) in caught.value.remedy
    chosen = of_reference(car[0], settings, CARD, "README.md", name="card", chosen=str(theirs))
    assert (chosen.content, chosen.run) == (THEIRS, "")
    assert "unsigned" in chosen.whose

    record(settings, "20260101T000000", car, ours(car, settings))
    told = of_reference(car[0], settings, CARD, "README.md", name="card")
    assert (told.content, told.run) == (OURS, "20260101T000000")
    with open_repository(car[0], settings, write=True) as repository:  # and the next one of ours can be numbered
        referrers.renew(repository, car[1], CARD, [Attachment("README.md", "text/markdown", b"# next\n")])


def test_the_one_that_a_run_attached_is_gone(car: tuple[str, Digest], settings: Settings) -> None:
    """Then what is there is not taken for it."""
    record(settings, "20260101T000000", car, Digest("a" * 64))
    with pytest.raises(BadInput, match="is gone, and others are there"):
        of_reference(car[0], settings, CARD, "README.md", name="card")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"shipped": 5}', '{"shipped": {"attached": 5}}', '{"shipped": {"digest": null}}']
)
def test_a_record_that_is_none(text: str, car: tuple[str, Digest], settings: Settings) -> None:
    (settings.home / "runs" / "x").mkdir(parents=True)
    (settings.home / "runs" / "x" / "summary.json").write_text(text)
    assert of_reference(car[0], settings, CARD, "README.md", name="card").run == ""


def test_the_same_statement_twice_is_one(car: tuple[str, Digest], settings: Settings) -> None:
    attach(car, settings, OURS, "7")
    assert of_reference(car[0], settings, CARD, "README.md", name="card").content == OURS


def test_more_than_anybody_attaches(
    car: tuple[str, Digest], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(referrers, "MOST", 3)
    for number in range(3):
        attach(car, settings, b"x%d" % number, "1")
    with pytest.raises(BadInput, match="more than 3"):
        of_reference(car[0], settings, CARD, "README.md", name="card")


def test_a_raw_artifact_of_other_files_gets_no_tag(car: tuple[str, Digest], settings: Settings) -> None:
    """`ilab model download` would take it for the promoted model."""
    evil = Blob.of(b"evil weights", "model.safetensors")
    assert evil.digest is not None
    with open_repository(car[0], settings, write=True) as repository:
        stored, manifest = image(repository, str(car[1]))
        for blob in (evil, Blob.of(b"{}", "config")):
            repository.put_blob(blob, lambda _: None)
        artifact = ImageManifest(
            artifact_type=raw.ARTIFACT,
            config=Descriptor(media_type=raw.CONFIG, digest=Digest.of(b"{}"), size=2),
            layers=(
                Descriptor(
                    media_type=raw.media_type("model.safetensors"),
                    digest=evil.digest,
                    size=evil.size,
                    annotations={referrers.TITLE: "model.safetensors"},
                ),
            ),
            subject=stored.descriptor,
        )
        repository.refer(artifact.encode(), artifact)
        assert not raw.holds_files_of(artifact, manifest)
        said: list[str] = []
        assert tag_raw(repository, stored, ("v2",), said.append) == []
        assert repository.get("v2-raw") is None
        assert "hold other files" in said[0]


def attach_provenance(car: tuple[str, Digest], settings: Settings, content: bytes, *, old: bool = False) -> None:
    kind = referrers.PROVENANCE if old else in_toto.MEDIA_TYPE
    title = "provenance.json" if old else "provenance.intoto.json"
    with open_repository(car[0], settings, write=True) as repository:
        referrers.renew(repository, car[1], kind, [Attachment(title, in_toto.MEDIA_TYPE, content)])


def printed(car: tuple[str, Digest], settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("CARWRIGHT_HOME", str(settings.home))
    monkeypatch.setenv("CARWRIGHT_CACHE", str(settings.cache))
    ended = CliRunner().invoke(app, ["statement", "provenance", car[0], *arguments])
    if isinstance(ended.exception, BadInput):
        raise ended.exception
    return ended.stdout


def test_a_statement_is_printed_and_one_of_an_older_version_too(
    car: tuple[str, Digest], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before 0.3 the provenance had a type of its own. It is read where there is no other."""
    with pytest.raises(BadInput, match=r"has no provenance\.intoto\.json attached"):
        printed(car, settings, monkeypatch)
    old, new = (in_toto.write("x", car[1], in_toto.PROVENANCE, {"said": word}).content for word in ("before", "now"))
    attach_provenance(car, settings, old, old=True)
    assert printed(car, settings, monkeypatch).encode() == old
    attach_provenance(car, settings, new)
    assert printed(car, settings, monkeypatch).encode() == new
    printed(car, settings, monkeypatch, "--output", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == new


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (in_toto.write("x", Digest("00" * 32), in_toto.PROVENANCE, {}).content, "is not about sha256:"),
        (in_toto.write("x", Digest("00" * 32), "https://slsa.dev/provenance/v3", {}).content, "another version than"),
        (b"{", "is not JSON"),
    ],
)
def test_a_statement_about_another_image_is_not_shown(
    content: bytes, why: str, car: tuple[str, Digest], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_provenance(car, settings, content)
    with pytest.raises(BadInput, match=why):
        printed(car, settings, monkeypatch)


def test_a_statement_of_a_hundred_megabytes_is_not_read(
    car: tuple[str, Digest], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_provenance(car, settings, b" " * (100 << 20))
    with pytest.raises(BadInput, match="has 104857600 bytes"):
        printed(car, settings, monkeypatch)
