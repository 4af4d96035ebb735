"""Benchmarks with lm-evaluation-harness: the declared tasks at an endpoint, and one score for every question.

The harness is imported here and below only, inside functions: the rest of the step starts without its seconds.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput
from containers.evaluate.benchmarks import command
from containers.evaluate.harness import data
from containers.evaluate.measurement import Requests, Scored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from containers.contract import EvaluateOptions
    from containers.evaluate.benchmarks import Benchmark
    from containers.events import Reporter
    from containers.settings import Settings
    from containers.suites import SuiteFiles

TASKS = "tasks"  # the folder of a suite with tasks of its own
_CARD_ENDPOINT = "http://localhost:8000/v1"


@dataclass(frozen=True)
class Ran:
    """What a suite's benchmarks gave; `cut` counts answers by benchmark that ran into their limit of tokens."""

    scored: tuple[Scored, ...]
    requests: Requests
    cut: dict[str, int]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Harness:
    """Runs the benchmarks of one suite; `tokenizer` is a folder with the tokenizer's files (None asks the
    endpoint), `scratch` an empty one.
    """

    files: SuiteFiles
    benchmarks: Sequence[Benchmark]
    category: str
    tokenizer: Path | None
    scratch: Path
    settings: Settings

    def run(self, options: EvaluateOptions, report: Reporter) -> Ran:
        """Every benchmark to its end.

        Raises BadInput for an unknown task, for data that is missing or has another number of questions than declared,
        and for a sample that would be cut; Temporary when the endpoint or the hub fails; nothing is kept then.
        """
        data.configure(self.settings, self.scratch)
        report.log("loading lm-evaluation-harness")
        from lm_eval.evaluator import simple_evaluate

        from containers.evaluate.harness.endpoint import make

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        folder = self._written()
        places = data.Places(self.files.name, folder, self._local_data(), self.scratch / "data")
        with data.reading(places):
            manager = self._tasks(folder, places)
            scored, cut, counts = [], {}, []
            for one in self.benchmarks:
                model = make(one, options, self.tokenizer, report)
                found = simple_evaluate(
                    model=model,
                    tasks=[one.task],
                    num_fewshot=one.num_fewshot,
                    task_manager=manager,
                    bootstrap_iters=0,
                    apply_chat_template=one.apply_chat_template,
                    fewshot_as_multiturn=one.fewshot_as_multiturn,
                )
                scored.append(_scored(one, found, self.files.name, self.category))
                counts.append(model.traffic.counts)
                cut[one.key] = model.traffic.cut
        return Ran(
            scored=tuple(scored),
            requests=Requests(
                **{name: sum(getattr(one, name) for one in counts) for name in ("sent", "retried", "failed")}
            ),
            cut={key: number for key, number in cut.items() if number},
            commands=tuple(self._command(one, options.served_model_name) for one in self.benchmarks),
        )

    def _written(self) -> Path:
        """The suite's own files on the disk, where the harness can read them."""
        folder = self.scratch / "suite"
        for path, text in self.files.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        return folder

    def _local_data(self) -> Path | None:
        folder = self.settings.evaluate.data
        if folder is None:
            return None
        folder = folder.expanduser().resolve()
        if not folder.is_dir():
            raise BadInput(
                f"there is no folder {folder}, which evaluate.data names", remedy="make it, or unset evaluate.data"
            )
        return folder

    def _tasks(self, folder: Path, places: data.Places) -> Any:
        """A manager that has loaded every task, data included: what is missing is said before the first request."""
        from lm_eval.tasks import TaskManager

        class Loaded(TaskManager):  # type: ignore[misc]
            """Answers a second time with what it loaded the first."""

            held: dict[str, Any]

            def load(self, task_list: Any) -> Any:
                (name,) = task_list
                if name not in self.held:
                    self.held[name] = super().load([name])
                return self.held[name]

        own = all(f"{TASKS}/{one.task}.yaml" in self.files.files for one in self.benchmarks)
        manager = Loaded(
            include_path=str(folder / TASKS) if (folder / TASKS).is_dir() else None, include_defaults=not own
        )
        manager.held = {}
        for one in self.benchmarks:
            if one.task not in manager.task_index:
                near = get_close_matches(one.task, manager.task_index, 1)
                raise BadInput(
                    f"the suite {self.files.name} asks for the task {one.task}, which lm-evaluation-harness "
                    f"{version('lm_eval')} does not have",
                    remedy=f"did you mean {near[0]}?" if near else f"`lm_eval ls tasks` lists them; {TASKS}/ adds one",
                )
            tasks = manager.load([one.task])["tasks"]
            if any("ifeval" in name for name in tasks):
                data.check_sentences(places)
            questions = sum(len(task.eval_docs) for task in tasks.values())
            if questions != one.samples:
                raise BadInput(
                    f"{one.title} of the suite {self.files.name} has {questions} questions here, and {one.samples} are "
                    "declared: an incomplete sample set never passes",
                    remedy=f"get the whole data set {one.data_set}, or the version that the suite was written for",
                )
        return manager

    def _command(self, one: Benchmark, model: str) -> str:
        return shlex.join(command(one, url=_CARD_ENDPOINT, model=model, tokenizer=model, output="results"))


def _scored(one: Benchmark, found: Mapping[str, Any], suite: str, category: str) -> Scored:
    """One score for each question of a benchmark, from the harness's samples."""
    metric, _, filter_name = one.metric.partition(",")
    scores: dict[str, float] = {}
    for task, samples in sorted(found["samples"].items()):
        for sample in samples:
            if sample["filter"] != filter_name:
                continue
            if metric not in sample:
                raise BadInput(
                    f"{one.title} of the suite {suite} has no metric {metric}",
                    remedy=f"give one of {', '.join(sample['metrics'])}",
                )
            value, name = sample[metric], f"{task}/{sample['doc_id']}"
            if isinstance(value, list | tuple):  # IFEval: one for every instruction of a question
                scores |= {f"{name}/{number}": float(part) for number, part in enumerate(value)}
            else:
                scores[name] = float(value)
    if not scores:
        raise BadInput(f"{one.title} of the suite {suite} has no answers through the filter {filter_name}")
    reported = (found["groups"] if one.task in found.get("groups", {}) else found["results"]).get(one.task, {})
    value = reported.get(one.metric)
    return Scored(
        key=one.key,
        title=one.title,
        scores=scores,
        category=category,
        data_set=one.data_set,
        metric=metric,
        fewshot=one.num_fewshot,
        margin=one.margin,
        reported=100 * value if isinstance(value, float | int) else None,
    )
