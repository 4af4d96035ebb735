"""How much room is asked for before images are built, and what is said where there is less."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from containers.errors import DiskFull
from infra.images import context, disk_space
from infra.images.context import inputs_of, labels
from infra.images.image_builder import ImageBuilder, budget
from infra.images.targets import CPU, find
from infra.images.verify import verify
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_what_was_seen_to_be_taken_is_asked_for() -> None:
    """docs/measurements/images.md."""
    (serve,), (quantize,) = find(["serve-cuda"]), find(["quantize-cuda"])
    assert 10 * GB <= disk_space.needed(find(CPU), budget()) <= 13 * GB
    assert 29.6 * GB <= disk_space.needed([serve], budget()) <= 35 * GB
    assert 40.6 * GB <= disk_space.needed_twice(serve, budget()) <= 60 * GB
    assert 30.8 * GB <= disk_space.needed_twice(quantize, budget()) <= 35 * GB
    assert disk_space.needed([], budget()) == 0


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageBuilder:
    """On a disk with 20 GB free, and nothing built."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100 * GB, 80 * GB, 20 * GB))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "buildah").write_text('#!/bin/sh\ncase "$*" in *inspect*) exit 1;; esac\n')
    (tmp_path / "bin" / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return ImageBuilder(Settings(cache=tmp_path / "cache"), lambda *_: None)


def test_a_disk_for_the_images_of_processors_is_too_small_for_those_of_gpus(builder: ImageBuilder) -> None:
    builder.need_room(find(CPU))
    with pytest.raises(DiskFull, match=r"20\.0 GB free, and building serve-cuda may need 31\.0 GB") as caught:
        builder.need_room(find(["serve-cuda"]))
    assert "CARWRIGHT_CACHE" in caught.value.remedy
    assert caught.value.exit_code == 75
    with pytest.raises(DiskFull, match="building quantize-cuda twice"):
        verify(builder, find(["quantize-cuda"])[0])


def test_what_was_built_before_is_not_counted(builder: ImageBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.images.buildah.Buildah.find", lambda *_: object())
    builder.need_room(find(["serve-cuda"]))


def test_a_revision_that_is_given_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git may answer otherwise a moment later."""
    inputs = inputs_of(find(["push"])[0])
    known = labels(inputs, "s")["org.opencontainers.image.revision"]
    given = replace(inputs, commit=known)
    monkeypatch.setattr(context, "revision", lambda _: "another")
    assert labels(given, "s")["org.opencontainers.image.revision"] == known
    assert given.digest == inputs.digest
