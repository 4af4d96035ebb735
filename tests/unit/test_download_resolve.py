"""What is known of a model before anything is fetched: what it takes to plan how it is served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containers.settings import StoreSettings
from tests.support.download_world import World, checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Without a store: nothing listens, and nothing is to be stored."""
    return World(tmp_path / "home", StoreSettings(endpoint="http://127.0.0.1:9"))


def test_the_configuration_and_the_bytes_of_the_weights_come_with_the_source(world: World, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", shards=3, size=1000)
    said = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope_scaling": {"factor": 8.0}}
    (folder / "config.json").write_text(json.dumps(said))
    source = world.resolve(f"file://{folder}")
    assert source.config == said
    assert source.weights == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 3000 < source.weights < source.size


@pytest.mark.parametrize("content", ["no json", "[1]", "[" * 100_000, "{" + " " * (1 << 20) + "}"])
def test_what_cannot_be_planned_from_is_left_to_the_download(world: World, tmp_path: Path, content: str) -> None:
    """That refuses it with its reason; here it is just not known."""
    folder = checkpoint(tmp_path / "model")
    (folder / "config.json").write_text(content)
    assert world.resolve(f"file://{folder}").config == {}
