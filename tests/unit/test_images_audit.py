"""Vulnerabilities of locked packages, by OSV records as osv.dev has them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from containers.errors import BadInput
from flows.cli.main import app
from infra.images.audit import Vulnerability, audit
from infra.images.targets import Target

if TYPE_CHECKING:
    from pathlib import Path

LOCK = f"""\
torch==2.13.0+cpu \\
    --hash=sha256:{"a" * 64}
paint-brush==1.4.2 \\
    --hash=sha256:{"b" * 64}
canvas==2.0 \\
    --hash=sha256:{"c" * 64}
"""


def record(**affected: Any) -> dict[str, Any]:
    """As GHSA records look in osv.dev's export."""
    return {
        "schema_version": "1.7.0",
        "id": "GHSA-1234-5678-9abc",
        "aliases": ["CVE-2026-0001"],
        "summary": "paint runs away",
        "affected": [{"package": {"ecosystem": "PyPI", "name": "Paint_Brush"}, **affected}],
    }


def span(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@dataclass(frozen=True)
class Images:
    targets: list[Target]
    root: Path

    def audit(self, osv: Path) -> list[Vulnerability]:
        return audit(self.targets, osv, self.root)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    root = tmp_path / "checkout"
    (root / "infra/images").mkdir(parents=True)
    (root / "Containerfile").touch()
    (root / "infra/images/requirements.lock").touch()
    (root / "requirements.lock").write_text(LOCK)
    targets = [
        Target("studio", "all of it", lock="requirements.lock"),
        Target("frame", "a part", lock="requirements.lock", only=("canvas",)),
        Target("shelf", "without", lock="requirements.lock", without=("paint-brush",)),
        Target("empty", "no Python packages"),
    ]
    return Images(targets, root)


@pytest.mark.parametrize(
    ("affected", "hit"),
    [
        (span({"introduced": "0"}, {"fixed": "1.5"}), True),
        (span({"introduced": "0"}, {"fixed": "1.4.2"}), False),
        (span({"introduced": "1.4.3"}), False),
        (span({"introduced": "1.0"}), True),
        (span({"introduced": "0"}, {"last_affected": "1.4.2"}), True),
        (span({"introduced": "0"}, {"last_affected": "1.4.1"}), False),
        (span({"introduced": "0"}, {"fixed": "1.1"}, {"introduced": "1.4"}, {"fixed": "1.4.10"}), True),
        (span({"introduced": "0"}, {"fixed": "1.1"}, {"introduced": "1.4.3"}, {"fixed": "1.5"}), False),
        ({"versions": ["1.4.1", "1.4.2"]}, True),
        ({"versions": ["1.4"]}, False),
        ({"ranges": [{"type": "GIT", "repo": "https://x", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_a_version_is_held_against_ranges_and_lists(
    affected: dict[str, Any], hit: bool, images: Images, tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(record(**affected)))
    found = images.audit(tmp_path / "one.json")
    assert [(one.package, one.version, one.images) for one in found] == (
        [("paint-brush", "1.4.2", ("studio",))] if hit else []
    )


def test_a_local_build_counts_as_its_version(images: Images, tmp_path: Path) -> None:
    about = record(**span({"introduced": "2.0"}, {"fixed": "2.14.0"}))
    about["affected"][0]["package"]["name"] = "torch"
    (tmp_path / "one.json").write_text(json.dumps(about))
    (found,) = images.audit(tmp_path / "one.json")
    assert (found.version, found.fixed, found.images) == ("2.13.0+cpu", ("2.14.0",), ("studio", "shelf"))


def test_an_archive_and_a_folder_hold_records(images: Images, tmp_path: Path) -> None:
    text = json.dumps(record(**span({"introduced": "0"})))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-1234-5678-9abc.json", text)
    (tmp_path / "osv" / "deep").mkdir(parents=True)
    (tmp_path / "osv" / "deep" / "one.json").write_text(text)
    assert images.audit(tmp_path / "all.zip") == images.audit(tmp_path / "osv")
    assert len(images.audit(tmp_path / "osv")) == 1


def test_a_withdrawn_record_says_nothing(images: Images, tmp_path: Path) -> None:
    osv = tmp_path / "osv"
    osv.mkdir()
    withdrawn = record(**span({"introduced": "0"})) | {"withdrawn": "2026-01-01T00:00:00Z"}
    (osv / "a.json").write_text(json.dumps(withdrawn))
    (osv / "b.json").write_text(json.dumps(record(versions=["0.1"])))
    assert images.audit(osv) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "it has no id"),
        (b'{"id": "X", "affected": [{"package": {"ecosystem": "Debian:12", "name": "bash"}}]}', "about a package of PyPI"),
        (b'{"id": "X", "affected": [1]}', "not a record in the OSV format"),
        (b'{"id": "X", "affected": [{"package": {"ecosystem": "PyPI"}}]}', "not a record in the OSV format"),
        (
            json.dumps(record(**span({"introduced": "evil"}))).encode(),
            "not a record in the OSV format",
        ),
    ],
)  # fmt: skip
def test_what_is_no_such_data_is_bad_input(content: bytes, said: str, images: Images, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        images.audit(tmp_path / "one.json")


def test_the_command_names_what_it_finds_in_the_real_locks(tmp_path: Path) -> None:
    about = record(**span({"introduced": "0"}, {"fixed": "99"}))
    about["affected"][0]["package"]["name"] = "httpx"
    (tmp_path / "one.json").write_text(json.dumps(about))
    ended = CliRunner().invoke(app, ["images", "audit", str(tmp_path / "one.json"), "push"])
    assert "CVE-2026-0001" in ended.stdout
    assert "fixed in 99 (in push)" in ended.stdout
    assert isinstance(ended.exception, BadInput)
