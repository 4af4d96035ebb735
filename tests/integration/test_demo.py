"""The demo model: the same bytes each time, made once, and offered by the local hub."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi

from infra.demo import LOCK, NAME, demo_hub, ensure_demo
from infra.environments.environment import ensure
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from containers.events import Event

pytestmark = pytest.mark.integration

# sha256sum of what infra/demo/make.py wrote when its tensors were compared with those that transformers 5.23 makes of
# the same GGUF file (272 tensors, 0 different), and its answer to "The capital of France is" began with "Paris".
GOLDEN = {
    "config.json": "9505d1d7bb26eaa66402d27b5dbda20db76ca9e6b3bab5fe5e6866cf44db3216",
    "generation_config.json": "bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "special_tokens_map.json": "2961f3e06bff4429e556a963faaaf40c8f2a162103b8774e1eda497b4442916f",
    "tokenizer.json": "18fa9869163301b8d62885582410ce60cf8e986be2b992535f8e0d0897eb2d37",
    "tokenizer_config.json": "d056ddb2c49ff118d705759475644adf09a70e6c185887561d04484c7f479e91",
    "LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    "README.md": "959f2a2760723113f22222bd357363260e384850161d9b80b4fa8bb2e73f6bde",
}


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the demo's environment, in the cache that all tests share."""
    said: list[Event] = []
    return ensure("demo", LOCK, Settings().cache, on_event=said.append).python


def test_the_demo_is_the_same_everywhere(python: Path, tmp_path: Path) -> None:
    """Its files are the golden ones; made while two wanted it at once, and made once."""
    said: list[Event] = []
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(ensure_demo(tmp_path, lambda: python, said.append)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "demo" / "SmolLM2-135M-Instruct"] * 2
    assert len([event for event in said if event.message.startswith("made the demo model")]) == 1
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folders[0].iterdir()}
    assert found == GOLDEN

    def never() -> Path:
        raise AssertionError("the demo is there already")

    assert ensure_demo(tmp_path, never, said.append) == folders[0]
    with demo_hub(tmp_path, said.append) as endpoint:
        info = HfApi(endpoint=endpoint, token=False).model_info(NAME, files_metadata=True)
    assert {sibling.rfilename for sibling in info.siblings} == set(GOLDEN)
    weights = next(sibling for sibling in info.siblings if sibling.rfilename == "model.safetensors")
    assert weights.lfs.sha256 == GOLDEN["model.safetensors"]
    (tmp_path / "demo" / "made.json").write_text("{}")  # by another version of the script
    assert ensure_demo(tmp_path, lambda: python, said.append) == folders[0]
    assert len([event for event in said if event.message.startswith("made the demo model")]) == 2
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= {"SmolLM2-135M-Instruct", "hub", "made.json"}
    assert not list((tmp_path / "demo").glob(".make-*"))
