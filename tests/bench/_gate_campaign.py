"""The gate of benchmarks on real paired answers: honest and damaged FP8 copies of the demo model, served by vLLM.

    python -m tests.bench._gate_campaign FOLDER [--only NAME ...] [--judge]

Four benchmarks of 100 questions each ask which of four phrases continues a text of this project's documentation, by their
log-probabilities. Every checkpoint in `JOBS` is made, served by vLLM in the step's environment, and measured through the
step's harness; what is already in FOLDER is not measured again. `--judge` prints a decision for each, as Markdown: over the
whole suite, and over two halves of its questions as suites of their own. About two minutes for each measurement on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import tests
from containers.contract import Step
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import Pair, assess
from containers.evaluate.measurement import Scored
from containers.process import inherited, run
from infra.environments.environment import prepare
from infra.settings import Settings
from tests.support import sabotage
from tests.support.vllm_server import NAME, demo, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
_GROUPS: Final = {
    "reference": "docs/reference/*.md",
    "guides": "docs/how-to/*.md",
    "measurements": "docs/measurements/*.md",
    "overview": "docs/*.md",
}
_QUESTIONS: Final = 100  # of each
_CONTEXT: Final = 28  # words
_PHRASE: Final = 5  # words
_SEED: Final = 20
_LAST: Final = "model.layers.29."
# 400 questions show 2 points by their log-probabilities, and not 1.
_GATE: Final = ScoreGate(margin=4.0, margin_average=2.0)


@dataclass(frozen=True)
class Job:
    """A checkpoint and how it is measured. `ignore` are modules that stay BF16, `damage` is done to the FP8 checkpoint."""

    name: str
    honest: bool
    in_flight: int = 8
    ignore: tuple[str, ...] = ()
    damage: Callable[[Path, Path], Path] | None = None
    of_baseline: bool = False


BASELINE: Final = Job("baseline", honest=True, of_baseline=True)
JOBS: Final = (
    BASELINE,
    Job("baseline, 3 in flight", honest=True, in_flight=3, of_baseline=True),
    Job("FP8", honest=True),
    Job("FP8, 16 in flight", honest=True, in_flight=16),
    Job("FP8, 3 in flight", honest=True, in_flight=3),
    Job("FP8, attention in BF16", honest=True, ignore=("re:.*self_attn.*",)),
    Job("FP8, MLP in BF16", honest=True, ignore=("re:.*mlp.*",)),
    Job("FP8, down projections in BF16", honest=True, ignore=("re:.*down_proj.*",)),
    Job("layer 12, scales 15 %", honest=False, damage=lambda a, b: sabotage.scaled(a, b, 1.15)),
    Job("layer 12, scales 50 %", honest=False, damage=lambda a, b: sabotage.scaled(a, b, 1.5)),
    Job("layer 12, scales doubled", honest=False, damage=lambda a, b: sabotage.scaled(a, b, 2.0)),
    Job("layer 12, rows of a weight shuffled", honest=False, damage=sabotage.shuffled),
    Job("last layer, scales 20 %", honest=False, damage=lambda a, b: sabotage.scaled(a, b, 1.2, prefix=_LAST)),
    Job("last layer, scales doubled", honest=False, damage=lambda a, b: sabotage.scaled(a, b, 2.0, prefix=_LAST)),
)


def questions(pattern: str) -> Iterator[dict[str, object]]:
    """Every question is a text, four phrases, and the number of the one that continues it."""
    rng = random.Random(f"{_SEED} {pattern}")
    words = [
        word
        for path in sorted(ROOT.glob(pattern))
        for word in re.sub(r"[|`*#]|\]\(\S+\)", " ", path.read_text()).replace("[", " ").split()
        if not set(word) <= set("-=:")
    ]
    for start in rng.sample(range(len(words) - _CONTEXT - _PHRASE), _QUESTIONS):
        at = start + _CONTEXT
        phrases = [" ".join(words[at : at + _PHRASE])]
        phrases += [" ".join(words[n : n + _PHRASE]) for n in rng.sample(range(len(words) - _PHRASE), 3)]
        order = rng.sample(range(4), 4)
        yield {
            "text": " ".join(words[start:at]),
            "choices": [phrases[n] for n in order],
            "answer": order.index(0),
        }


def write_suite(folder: Path) -> Path:
    """The suite, in a new folder."""
    (folder / "tasks").mkdir(parents=True)
    rows = []
    for key, pattern in _GROUPS.items():
        lines = [json.dumps(one) for one in questions(pattern)]
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
                "samples": _QUESTIONS,
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


def measure(job: Job, folder: Path, settings: Settings) -> None:
    """Make the checkpoint, serve it, measure it, and keep its scores as `FOLDER/NAME.json`."""
    suite = folder / "continuations"
    if not suite.exists():
        write_suite(suite)
    original = demo(settings)
    checkpoint = original if job.of_baseline else _quantized(job, original, folder, settings)
    environment = prepare(Step.EVALUATE, settings, print)
    variables = {**inherited(), **environment.environment(), "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    variables["PYTHONPATH"] = f"{environment.modules}:{Path(tests.__path__[0]).parent}"
    with served(settings, checkpoint, folder / "vllm.log") as url:
        options = {"endpoint": url, "served_model_name": NAME, "concurrency": job.in_flight}
        scenario = {"name": job.name, "suite": str(suite), "options": options, "tokenizer": str(original)}
        argv = [str(environment.python), "-m", "tests.support.harness_client"]
        done = run(argv, env=variables, timeout=1800, stdin=json.dumps([scenario]), cwd=folder)
    found = json.loads(done.stdout)[job.name]
    if "scored" not in found:
        raise SystemExit(f"{job.name}: {found}")
    _kept(folder, job).write_text(json.dumps(found["scored"]))
    if job.damage is not None:
        shutil.rmtree(checkpoint)


def _quantized(job: Job, original: Path, folder: Path, settings: Settings) -> Path:
    """The FP8 checkpoint of a job: llm-compressor's own, damaged if the job says so."""
    ignore = ["lm_head", "re:.*embed_tokens.*", *job.ignore]
    whole = folder / f"checkpoint-{len(''.join(job.ignore)) or 'whole'}"
    if not whole.exists():
        code = (
            "from llmcompressor import model_free_ptq; import json, sys; model_free_ptq(sys.argv[1], sys.argv[2], "
            "scheme='FP8_DYNAMIC', ignore=json.loads(sys.argv[3]), device='cpu')"
        )
        python = str(prepare(Step.QUANTIZE, settings, print).python)
        run([python, "-c", code, str(original), str(whole), json.dumps(ignore)], timeout=900)
    return whole if job.damage is None else job.damage(whole, folder / "damaged")


def _kept(folder: Path, job: Job) -> Path:
    return folder / f"{re.sub('[^a-z0-9]+', '-', job.name.lower())}.json"


def judge(folder: Path) -> Iterator[str]:
    """A decision for every measurement that is there; halves are the questions with even and with odd numbers."""
    sides = {job: json.loads(_kept(folder, job).read_text()) for job in JOBS if _kept(folder, job).exists()}
    base = sides.pop(BASELINE)
    yield "| candidate | answers that differ | difference | by log-probabilities (bounds) | `pooled` | halves | `each` |"
    yield "| --- | ---: | ---: | ---: | --- | --- | --- |"
    for job, scored in sides.items():
        pairs = [_pair(Scored.model_validate(base[key]), Scored.model_validate(one)) for key, one in scored.items()]
        differ = [one.baseline[key] != one.candidate[key] for one in pairs for key in one.baseline]
        report = assess(pairs, _GATE)
        mean = report.average
        assert mean is not None
        halves = [assess([_half(one, odd) for one in pairs], _GATE).decision for odd in (0, 1)]
        yield (
            f"| {job.name} ({'honest' if job.honest else 'damaged'}) | {100 * sum(differ) / len(differ):.1f} % "
            f"| {mean.difference:+.2f} | {mean.center:+.2f} ({mean.lower:+.2f} to {mean.upper:+.2f}) "
            f"| {report.decision} | {', '.join(halves)} | {assess(pairs, _GATE.model_copy(update={'rule': 'each'})).decision} |"
        )


def _pair(before: Scored, after: Scored) -> Pair:
    return Pair(
        before.title, before.scores, after.scores, clusters=after.clusters, margins=(before.margins, after.margins)
    )


def _half(pair: Pair, odd: int) -> Pair:
    """The questions whose number is odd, or even."""

    def some(values: dict[str, float]) -> dict[str, float]:
        return {key: value for key, value in values.items() if int(key.rpartition("/")[2]) % 2 == odd}

    first, second = (some(dict(one)) for one in pair.margins)
    return Pair(pair.title, some(dict(pair.baseline)), some(dict(pair.candidate)), margins=(first, second))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[job.name for job in JOBS])
    parser.add_argument("--judge", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.judge:
        print("\n".join(judge(folder)))
        return
    for job in JOBS:
        if job.name in arguments.only and not _kept(folder, job).exists():
            measure(job, folder, Settings())


if __name__ == "__main__":
    main()
