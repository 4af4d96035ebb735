"""The models that are shipped: a Llama of two layers that counts words, with new weights at every change, and its suite."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import yaml

from containers import suites
from tests.support.tiny_llama import WORDS, write_tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

    from infra.hub import Repositories

ORGANIZATION = "soak"
LENGTH = 256  # tokens


def publish(repositories: Repositories, name: str, folder: Path, seed: int) -> str:
    """A new commit with other weights; returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    write_tiny_llama(folder, counting=True, seed=seed, max_position_embeddings=LENGTH)
    (folder / "LICENSE").write_text("do as you like\n")
    return repositories.publish(f"{ORGANIZATION}/{name}", folder)


def write_suite(folder: Path) -> Path:
    """The smoke suite with little text, in the words of the models, and without its small benchmarks."""
    declared: dict[str, Any] = yaml.safe_load(suites.read("smoke").files[suites.DECLARATION])
    del declared["tasks"]
    declared["name"] = folder.name
    declared["serving"]["max_model_len"] = LENGTH
    declared["sanity"] |= {
        "chat": ["w50", "w55", "w45 w46"],
        "completion": ["w40", "w30 w31"],
        "long_prompt_tokens": 200,
        "concurrent": 4,
    }
    declared["fidelity"] |= {
        "repeat": "text/a.txt",
        "chat_template": [{"role": "user", "content": "w7"}, {"role": "assistant", "content": "w8"}],
    }
    (folder / "text").mkdir(parents=True)
    for number, name in enumerate("abcdefgh"):
        (folder / "text" / f"{name}.txt").write_text(" ".join(f"w{word}" for word in range(3 + number, WORDS)) + "\n")
    (folder / suites.DECLARATION).write_text(yaml.safe_dump(declared, sort_keys=False))
    return folder


def write_list(path: Path, names: list[str], registry: str, suite: Path) -> Path:
    """A models.yaml with these models."""
    lines = [
        {
            "name": name,
            "model": f"hf://{ORGANIZATION}/{name}",
            "targets": [f"{registry}/models/{name}"],
            "suite": str(suite),
            "gate": "smoke",
            "max_model_len": LENGTH,
        }
        for name in names
    ]
    path.write_text(yaml.safe_dump({"models": lines}))
    return path
