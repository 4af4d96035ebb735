"""A checkpoint of any size that vLLM loads: random values, the shape of a Llama, the demo model's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.process import inherited, run
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare

if TYPE_CHECKING:
    from infra.settings import Settings

_LAYER: Final = 134_000_000  # bytes of one layer of the shape below, about
_ENDS: Final = 403_000_000


def make(folder: Path, gigabytes: float, shards: int, settings: Settings, demo: Path | None = None) -> None:
    """Write it, by the program that the benchmark of quantization uses; `demo` is the demo model's folder, made if not given."""
    layers = max(1, round((gigabytes * 1e9 - _ENDS) / _LAYER))
    quantizing = prepare(Step.QUANTIZE, settings, lambda _: None)
    shape = ["--layers", str(layers), "--hidden", "2048", "--inner", "8192", "--vocabulary", "49152"]
    run(
        [
            *(str(quantizing.python), str(Path(__file__).with_name("_quantize_one.py")), "make", str(folder), *shape),
            *("--shards", str(shards)),
        ],
        env={**inherited(), **quantizing.environment()},
        timeout=600,
    )
    cache = settings.cache.expanduser()
    demo = demo or ensure_demo(
        cache, lambda: ensure("demo", LOCK, cache, on_event=lambda _: None).python, lambda _: None
    )
    for file in demo.glob("*.json"):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": layers, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": False}
    config = json.loads((demo / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    (folder / ".digests.json").unlink()
