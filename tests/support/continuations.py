"""Benchmarks made of this project's documentation: which of four phrases continues a text?

They need no network, as many questions as are asked for can be drawn, and the demo model answers a good half of them rightly.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
GROUPS: Final = {
    "reference": "docs/reference/*.md",
    "guides": "docs/how-to/*.md",
    "measurements": "docs/measurements/*.md",
    "overview": "docs/*.md",
}
_CONTEXT: Final = 28  # words
_PHRASE: Final = 5  # words
_SEED: Final = 20


def questions(pattern: str, count: int, draw: int = 0) -> Iterator[dict[str, object]]:
    """Every question is a text, four phrases, and the number of the one that continues it. Each `draw` has other questions."""
    rng = random.Random(f"{_SEED} {pattern}" + (f" {draw}" if draw else ""))
    words = [
        word
        for path in sorted(ROOT.glob(pattern))
        for word in re.sub(r"[|`*#]|\]\(\S+\)", " ", path.read_text()).replace("[", " ").split()
        if not set(word) <= set("-=:")
    ]
    for start in rng.sample(range(len(words) - _CONTEXT - _PHRASE), count):
        at = start + _CONTEXT
        phrases = [" ".join(words[at : at + _PHRASE])]
        phrases += [" ".join(words[n : n + _PHRASE]) for n in rng.sample(range(len(words) - _PHRASE), 3)]
        order = rng.sample(range(4), 4)
        yield {
            "text": " ".join(words[start:at]),
            "choices": [phrases[n] for n in order],
            "answer": order.index(0),
        }


def write_suite(folder: Path, count: int, draw: int = 0) -> Path:
    """A suite of four benchmarks with `count` questions each, in a new folder."""
    (folder / "tasks").mkdir(parents=True)
    rows = []
    for key, pattern in GROUPS.items():
        lines = [json.dumps(one) for one in questions(pattern, count, draw)]
        (folder / "tasks" / f"{key}.jsonl").write_text("\n".join(lines) + "\n")
        task = {
            "task": f"continue_{key}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"tasks/{key}.jsonl"}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / "tasks" / f"continue_{key}.yaml").write_text(json.dumps(task))
        rows.append(
            {
                "key": key,
                "title": key.capitalize(),
                "task": f"continue_{key}",
                "metric": "acc_norm,none",
                "num_fewshot": 0,
                "api": "completions",
                "max_length": 512,
                "samples": count,
                "data_set": f"tasks/{key}.jsonl",
            }
        )
    declared = {
        "schema_version": 1,
        "name": folder.name,
        "description": "Which phrase continues a text.",
        "serving": {"max_model_len": 1024},
        "benchmarks": rows,
    }
    (folder / "suite.yaml").write_text(json.dumps(declared))
    return folder
