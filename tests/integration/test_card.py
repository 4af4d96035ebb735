"""`carwright card` and `report`: what promotion attached, read back from a layout and a registry as a person does it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containers.digest import Digest
from containers.oci import referrers
from containers.oci.access import open_repository
from infra.settings import Settings
from tests.support.command_line import CommandLine
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.integration


@pytest.fixture
def carwright(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def attach(reference: str, digest: str, kind: str, title: str, text: str, settings: Settings) -> str:
    """The referrer's digest."""
    with open_repository(reference, settings, write=True) as repository:
        file = referrers.Attachment(title, "text/plain", text.encode())
        return str(referrers.renew(repository, Digest.parse(digest), kind, [file])[0])


@pytest.mark.parametrize("place", ["layout", "registry"])
def test_the_card_and_report_of_an_image(carwright: CommandLine, tmp_path: Path, place: str) -> None:
    """By tag and by digest. Of several that differ none is shown, whatever its number, until one is chosen or recorded."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    settings = Settings(cache=tmp_path / "cache")
    with LocalRegistry(tmp_path / "registry") as registry:
        target = f"oci:{tmp_path}/car" if place == "layout" else f"{registry}/org/car"
        digest = json.loads(carwright("push", checkpoint, f"{target}:v1", "--json").stdout)["reference"].split("@")[1]
        nothing = carwright("card", f"{target}:v1")
        assert nothing.returncode == 2
        assert "has no README.md attached" in nothing.stderr
        first = attach(f"{target}@{digest}", digest, referrers.CARD, "README.md", "# first\n", settings)
        attach(f"{target}@{digest}", digest, referrers.EVALUATION, "report.html", "<p>pass</p>", settings)
        for reference in (f"{target}:v1", f"{target}@{digest}"):
            shown = carwright("card", reference)
            assert shown.stdout == "# first\n"
            assert "unsigned, and by no run of this folder" in shown.stderr
        page = carwright("report", f"{target}:v1", "--output", tmp_path / "page.html")
        assert page.returncode == 0, page.stderr
        assert (page.returncode, (tmp_path / "page.html").read_text()) == (0, "<p>pass</p>")
        assert carwright("report", f"{target}:v1", "-o", tmp_path / "page.html", "--open").returncode == 2

        second = attach(f"{target}@{digest}", digest, referrers.CARD, "README.md", "# second\x1b[2J\n", settings)
        several = carwright("card", f"{target}:v1")
        assert (several.returncode, several.stdout) == (2, "")
        assert f"--attached {first}" in several.stderr
        assert f"--attached {second}" in several.stderr
        written = carwright("card", f"{target}:v1", "--attached", first, "--output", tmp_path / "CARD.md")
        assert (written.returncode, (tmp_path / "CARD.md").read_text()) == (0, "# first\n")
        assert carwright("card", f"{target}:v1", "--attached", second).stdout == "# second\\x1b[2J\n"

        record = tmp_path / ".carwright" / "runs" / "20260101T000000" / "summary.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"shipped": {"digest": digest, "attached": {"card": first}}}))
        recorded = carwright("card", f"{target}:v1")
        assert recorded.stdout == "# first\n"
        assert "attached by the run 20260101T000000" in recorded.stderr


def test_the_report_of_a_run(carwright: CommandLine, tmp_path: Path) -> None:
    """The last one without a name, one by the beginning of its name, and a clear word where there is none."""
    missing = carwright("report")
    assert missing.returncode == 2
    assert "no run with a report" in missing.stderr
    for run in ("20260101T000000", "20260102T000000"):
        (tmp_path / ".carwright" / "runs" / run).mkdir(parents=True)
        (tmp_path / ".carwright" / "runs" / run / "report.html").write_text(run)
    last = carwright("report")
    assert last.stdout.strip() == str(tmp_path / ".carwright" / "runs" / "20260102T000000" / "report.html")
    assert carwright("report", "20260101", "-o", tmp_path / "page.html").returncode == 0
    assert (tmp_path / "page.html").read_text() == "20260101T000000"
    assert carwright("report", "2025").returncode == 2
