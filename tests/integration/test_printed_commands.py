"""Commands that a run prints, run as they are printed on the side where a person reads them.

The steps of the dry run know their registry as `registry:5000`; nothing on the host does.
"""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from containers.contract import ArtifactRef, Kind
from containers.digest import Digest
from containers.oci import referrers
from containers.oci.access import open_repository, resolve
from containers.oci.referrers import Attachment
from containers.store import FileEntry, Manifest
from containers.verdict import CARD_FILE, PAGE_FILE, Verdict
from flows.cli.main import app
from flows.local.dry_run.site import Site
from flows.release.card import render
from flows.release.promotion import Release
from flows.release.report import publish_page
from flows.release.summary import NotPromoted, Shipped, Timeline
from flows.ship_request import ShipRequest
from infra.settings import Settings
from tests.support.cards import FACTS, blocks
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.narrow import on_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flows.runtime import Runtime

pytestmark = pytest.mark.integration

_COMMAND = re.compile(r"`(carwright [^`]+)`|^(carwright .+)$", re.MULTILINE)


def printed(text: str) -> list[str]:
    """Every command of a page or a line."""
    return [first or second for first, second in _COMMAND.findall(text)]


def carwright(command: str) -> Any:
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, (command, result.output)
    return result


def parsed(command: str) -> dict[str, Any]:
    """What the command line's own parser reads; raises its error for what it does not take."""
    name, *arguments = shlex.split(command)[1:]
    program: Any = get_command(app)
    return dict(program.commands[name].make_context(name, arguments).params)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as address:
        yield address


class World:
    """A promoted image in the registry of a dry run, and what its run knows."""

    def __init__(self, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = Site(registry_port=int(registry.rpartition(":")[2])).host(0).environment
        monkeypatch.setenv("CARWRIGHT_DOCKER__REGISTRY_ALIASES", environment["CARWRIGHT_DOCKER__REGISTRY_ALIASES"])
        self.settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
        monkeypatch.delenv("CARWRIGHT_DOCKER__REGISTRY_ALIASES")  # the host has none
        monkeypatch.chdir(tmp_path)
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        pushed = push_folder(checkpoint, f"{registry}/models/car", self.settings)
        self.digest = pushed.digest
        self.reference = f"registry:5000/models/car@{pushed.digest}"  # as the push step names it
        with open_repository(f"{registry}/models/car", self.settings, write=True) as repository:
            for kind, title, content in (
                (referrers.EVALUATION, PAGE_FILE, b"<html>the report</html>"),
                (referrers.CARD, CARD_FILE, b"# the card\n"),
            ):
                referrers.attach(repository, self.digest, kind, (Attachment(title, "text/plain", content),))

    @property
    def outside(self) -> str:
        return self.settings.docker.outside(self.reference)

    def runtime(self) -> Runtime:
        """With a store elsewhere, as the dry run's is: the page is a link, and is read from the image."""
        entry = FileEntry(path=PAGE_FILE, size=1, sha256=Digest.of(b"x"))
        store = SimpleNamespace(
            load=lambda _: Manifest(kind=Kind.VERDICT, fingerprint="e" * 64, files=(entry,)),
            link=lambda *_, **__: "http://127.0.0.1:9000/report",
        )
        return cast("Runtime", SimpleNamespace(store=store, settings=self.settings))

    def shipped(self, decision: str) -> Shipped:
        verdict = Verdict.model_validate({"decision": decision, "subject": str(self.digest), "suite": "smoke"})
        image = SimpleNamespace(reference=self.reference, digest=self.digest)
        source = SimpleNamespace(source="hf://a/b", commit="0" * 40)
        release = Release(
            ShipRequest(model="hf://a/b"), cast("Any", source), cast("Any", SimpleNamespace(scheme="FP8_DYNAMIC")),
            cast("Any", image), cast("Any", None), cast("Any", None), (2, 1), verdict, self.settings.deploy, self.outside,
        )  # fmt: skip
        verdict_ref = ArtifactRef(kind=Kind.VERDICT, fingerprint="e" * 64, digest=Digest.of(b"x"))
        page = publish_page(self.runtime(), verdict_ref, self.outside)
        return release.outcome(Timeline(), (), worked=0.0, page=page, kept=None, promoted=None)


@pytest.fixture
def world(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(registry, tmp_path, monkeypatch)


def test_the_summary_of_a_dry_run(world: World) -> None:
    """`report` prints the page; `serve` is read and its image is there. `registry:5000` is in none of them."""
    shipped = world.shipped("pass")
    texts = dict(shipped.facts())
    assert printed(shipped.markdown()) == [texts["report"], texts["serve it"]]
    for command in printed(shipped.markdown()):
        assert "registry:5000" not in command
    page = carwright(texts["report"]).stdout.strip()
    assert (world.settings.home.parent / page).read_bytes() == b"<html>the report</html>"
    assert resolve(parsed(texts["serve it"])["what"], world.settings) == world.digest
    assert resolve(texts["modelcar"], world.settings) == world.digest
    assert carwright(f"carwright card {shlex.quote(texts['modelcar'])}").stdout == "# the card\n"
    assert "registry:5000" not in shipped.headline()
    assert shipped.reference == world.reference, "what the steps and the records know it by"


def test_a_candidate_that_is_not_promoted_has_no_report_attached(world: World) -> None:
    """So no command that would look for one is printed, and the link is."""
    shipped = world.shipped("refuse")
    texts = dict(shipped.facts())
    assert texts["report"] == "http://127.0.0.1:9000/report"
    assert printed(shipped.markdown()) == [texts["serve it"]]
    assert "registry:5000" not in str(NotPromoted(shipped))
    page = publish_page(world.runtime(), cast("Any", None), world.outside)
    assert page is not None
    assert printed(page.markdown(promoted=False)) == []
    (command,) = printed(page.markdown(promoted=True))
    assert carwright(command).stdout.strip() == PAGE_FILE


def test_the_card_of_a_dry_run(world: World) -> None:
    """Its own commands are read by the parser, and name an image that is there."""
    card = render(FACTS.model_copy(update={"reference": world.outside, "digest": world.digest}))
    found = [command for block in blocks(card, "bash") for command in printed(block.replace("\\\n", " "))]
    assert found
    for command in found:
        parsed(command)
    assert "registry:5000" not in card
    (render_command,) = [command for command in found if command.startswith("carwright render")]
    assert resolve(parsed(render_command)["reference"], world.settings) == world.digest


def test_a_hub_that_is_away_is_one_line_a_model(tmp_path: Path) -> None:
    """On 80 columns too: the reason stands at the end of its line, in one piece."""
    entry = "  - {name: %s, model: hf://acme/%s, targets: ['127.0.0.1:9/models/%s']}\n"
    (tmp_path / "models.yaml").write_text("models:\n" + "".join(entry % ((name,) * 3) for name in ("one", "two")))
    shown = on_terminal(
        ["-m", "flows.cli.main", "status", "--models", "models.yaml"],
        tmp_path,
        CARWRIGHT_HUB_ENDPOINT="http://127.0.0.1:9",
    )
    assert shown.code == 0, shown.raw
    lines = [line for line in shown.raw.splitlines() if line.strip()]
    assert len(lines) == 3, shown.raw
    for name, line in zip(("one", "two"), lines[1:], strict=True):
        assert line.split()[0] == name
        assert "the hub does not answer (http://127.0.0.1:9)" in line


def test_a_folder_with_blanks_is_quoted(tmp_path: Path, world: World) -> None:
    reference = f"oci:{tmp_path}/a folder/it's@{world.digest}"
    page = publish_page(world.runtime(), cast("Any", None), reference)
    assert page is not None
    assert parsed(page.command)["what"] == reference
