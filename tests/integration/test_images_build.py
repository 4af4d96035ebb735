"""Two builds of an image are one image, without a network; and where they are not, it is said what differs.

Real builds with buildah and mmdebstrap; what they are made from comes from the user's cache, or is fetched into it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput, Error
from infra.container_engine.client import connect
from infra.images import inside
from infra.images.buildah import Buildah, Built
from infra.images.context import LAID_OUT, lay_out, revision
from infra.images.image_builder import ImageBuilder
from infra.images.targets import ROOT, Target, find
from infra.images.verify import compare, verify
from infra.settings import DockerSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.events import Event

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
OFFLINE = Path(inside.__file__).with_name("offline.py")


def builder(**settings: Any) -> ImageBuilder:
    return ImageBuilder(Settings(**settings), lambda name, event: None)


def target(name: str) -> Target:
    return find([name])[0]


@pytest.fixture(scope="module")
def shop() -> ImageBuilder:
    there = builder()
    there.fetch(find(["modelcar-base", "push"]))
    return there


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Buildah]:
    there = Buildah.open_storage(tmp_path / "storage")
    yield there
    there.remove_all()


def build(shop: ImageBuilder, storage: Buildah, name: str, folder: Path, events: list[Event] | None = None) -> Built:
    """One build into a storage of its own; `folder` is laid out unless it is there."""
    inputs = shop.inputs(target(name))
    if not folder.exists():
        folder.mkdir()
        lay_out(inputs, folder, shop.cache, shop.wheelhouse, lambda _: None, source="test")
    listen = events.append if events is not None else lambda _: None
    return storage.build(inputs, folder, f"localhost/test/{name}:x", listen)


def test_two_builds_of_push_are_one_image(shop: ImageBuilder) -> None:
    """From nothing, base included: other folders, other times, another umask, no network, no layer in common."""
    result = verify(shop, target("push"))
    assert result.differences == ()
    assert result.first.image_id == result.second.image_id
    assert result.first.digest == result.second.digest
    assert result.first.size < 300_000_000
    labels = result.first.labels
    inputs = shop.inputs(target("push"))
    assert labels["dev.carwright.lock"] == inputs.lock_digest
    assert labels["org.opencontainers.image.revision"] == revision(inputs)


def test_a_changed_file_changes_the_digest_and_is_named(shop: ImageBuilder, storage: Buildah, tmp_path: Path) -> None:
    """One byte of the layer, and the same byte back again."""
    first = build(shop, storage, "modelcar-base", tmp_path / "context")
    storage.export(first, tmp_path / "first.tar", "first")
    layer = tmp_path / "context" / "inputs" / "layer.tar"
    content = layer.read_bytes()
    changed = content.replace(b"Apache License, version 2.0", b"Apache License, version X.0", 1)
    assert changed != content
    layer.write_bytes(changed)
    second = build(shop, storage, "modelcar-base", tmp_path / "context")
    storage.export(second, tmp_path / "second.tar", "second")
    assert second.digest != first.digest
    (line,) = [one for one in compare(tmp_path / "first.tar", tmp_path / "second.tar") if one.startswith("layer")]
    assert line.startswith("layer 0: usr/share/doc/carwright/NOTICE: ")
    layer.write_bytes(content)
    assert build(shop, storage, "modelcar-base", tmp_path / "context").digest == first.digest


def test_verify_names_what_differs(shop: ImageBuilder, tmp_path: Path) -> None:
    """A build that writes the time into a file is found out, with the file's name."""
    (tmp_path / "infra/images").mkdir(parents=True)
    (tmp_path / "infra/images/requirements.lock").write_text("")
    (tmp_path / "Containerfile").write_text(
        "FROM scratch AS made\nADD inputs/base.tar /\nFROM made AS base\n"
        "RUN --mount=type=bind,from=laid-out,source=inputs,target=/context python3.11 /context/inside/offline.py && "
        "python3.11 -c \"import time; open('/when', 'w').write(str(time.time_ns()))\"\n"
    )
    shop = ImageBuilder(shop.settings, lambda name, event: None, root=tmp_path)
    result = verify(shop, target("base"), fresh=False)
    assert not result.same
    assert [line.split(":")[:2] for line in result.differences if line.startswith("layer")] == [["layer 1", " when"]]


def test_an_engine_is_given_an_image_once(shop: ImageBuilder, tmp_path: Path) -> None:
    """What the engine has from the same inputs is up to date; other inputs make it out of date."""
    shop = builder(docker=DockerSettings(image="carwright-test/{target}:images"))
    base = target("modelcar-base")
    assert not shop.loaded(base)
    try:
        built = shop.build(base)
        shop.load(base, built)
        assert shop.loaded(base)
        with connect(shop.settings.docker) as engine:
            found = engine.api.inspect_image("carwright-test/modelcar-base:images")
        assert found["Id"] == built.image_id
        assert not found["Config"]["Entrypoint"]
        assert found["Config"]["User"] == "1001"
        (tmp_path / "Containerfile").write_text("FROM scratch AS modelcar-base\n")
        other = ImageBuilder(shop.settings, lambda name, event: None, root=tmp_path)
        assert not other.loaded(base)
    finally:
        with connect(shop.settings.docker) as engine:
            engine.api.remove_image("carwright-test/modelcar-base:images")


def test_a_build_that_fails_says_why(shop: ImageBuilder, storage: Buildah, tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Containerfile").write_text("FROM scratch AS labelled\nADD nothing.tar /\n")
    with pytest.raises(Error, match=r"(?s)the image modelcar-base cannot be built:.*nothing\.tar"):
        build(shop, storage, "modelcar-base", folder)


def test_what_was_not_fetched_is_said(tmp_path: Path) -> None:
    shop = builder(cache=tmp_path)
    with (
        pytest.raises(BadInput, match=r"package\(s\) of the image push are not in the wheelhouse") as refused,
        shop.laid_out(target("push")),
    ):
        pass
    assert "carwright images fetch" in refused.value.remedy
    assert not list(tmp_path.rglob(".context-*"))


def test_a_missing_buildah_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="buildah is not installed"):
        Buildah.open_storage(tmp_path / "storage")


def test_a_network_is_noticed() -> None:
    """The check that every build runs: it passes where there is no network, and where there is one it does not."""
    alone = subprocess.run(["unshare", "--net", sys.executable, OFFLINE], check=False, capture_output=True)
    assert alone.returncode == 0
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    assert routes, "this machine has no network to notice"
    done = subprocess.run([sys.executable, OFFLINE], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "this build has a network" in done.stderr


def test_every_run_of_the_containerfile_that_installs_checks_the_network() -> None:
    """So that no other builder can bring one in unnoticed; the stage that fetches is replaced in the hermetic build."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", "")
    stages = {head.partition("\n")[0].rpartition(" AS ")[2]: head for head in text.split("\nFROM ")[1:]}
    del stages[LAID_OUT]
    lines = [line for stage in stages.values() for line in stage.splitlines() if line.startswith("RUN ")]
    runs = [line for line in lines if "venv" in line or "prepare" in line]
    assert len(runs) == 4
    assert all("offline.py" in line for line in runs)
