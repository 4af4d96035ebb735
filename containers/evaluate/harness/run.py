"""Benchmarks with lm-evaluation-harness: the declared tasks at an endpoint, and one score for every question.

The harness is imported here and below only, inside functions: the rest of the step starts without its seconds.
"""

from __future__ import annotations

import logging
import random
import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from containers.endpoint_key import authorization
from containers.errors import BadInput
from containers.evaluate import tokenizer
from containers.evaluate.harness import data, questions, task_files
from containers.evaluate.harness.benchmark import command
from containers.evaluate.harness.confined_tokenizer import confined_tokenizer
from containers.evaluate.looks import AT_ONCE, LookProgress
from containers.evaluate.measurement import RequestCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from containers.evaluate.harness.benchmark import Benchmark
    from containers.evaluate.harness.confined_tokenizer import ConfinedTokenizer
    from containers.evaluate.measurement import Scored
    from containers.events import Reporter
    from containers.parameters import EvaluateOptions
    from containers.settings import StepSettings
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles

_CARD_ENDPOINT = "http://localhost:8000/v1"
_SEEDS = (0, 1234)  # of `random` and numpy, the harness's own


@dataclass(frozen=True)
class Ran:
    """Results of a suite's benchmarks. `cut` counts, by benchmark, answers that reached the token limit; `noise` is the share
    of repeated questions that got another score the second time.
    """

    scored: tuple[Scored, ...]
    requests: RequestCounts
    cut: dict[str, int]
    commands: tuple[str, ...]
    noise: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Harness:
    """Runs the benchmarks of one suite; `scratch` is an empty folder, `tokenizer` one with the tokenizer's files (None asks
    the endpoint). `repeated` questions of each benchmark are asked once more, to measure the server's noise. `progress` names
    the look that is measured, in a suite with looks.
    """

    files: SuiteFiles
    benchmarks: Sequence[Benchmark]
    scratch: Path
    settings: StepSettings
    tokenizer: Path | None = None
    category: str = ""
    repeated: int = 0
    progress: LookProgress = AT_ONCE

    def run(self, options: EvaluateOptions, report: Reporter) -> Ran:
        """Run every benchmark.

        Raises BadInput for an unknown task, for data that is missing or has another number of questions than declared,
        and for a sample that would be cut; Temporary if the endpoint or the hub fails. Nothing is kept then.
        """
        key = authorization(self.settings.evaluate, options.endpoint)
        data.configure(self.settings, self.scratch)
        report.log("loading lm-evaluation-harness")
        from lm_eval.evaluator import simple_evaluate

        from containers.evaluate.harness.endpoint import make

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        folder = self._written()
        places = data.Places(self.files.name, folder, self._local_data(), self.scratch / "data")
        with ExitStack() as stack:
            stack.enter_context(task_files.sandboxed_templates(self.files.name))
            stack.enter_context(data.data_from(places))
            manager = self._tasks(folder, places)
            tokenizer = self._confined(stack)
            scored, cut, counts, noise, commands = [], {}, [], {}, []
            for one in self.benchmarks:
                progress = self.progress.of(at_once=one.at_once)
                seeds = () if progress is None else progress.seeds(one.seeds)
                if progress is None or not (seeds or progress.adds_questions()):
                    continue
                tasks = manager.load([one.task])["tasks"]
                part = {name: progress.asked(name, len(task.eval_docs)) for name, task in tasks.items()}
                if not any(part.values()):
                    continue
                whole = {} if self._whole(part, tasks) else {"samples": questions.asked_of(part)}
                model = make(one, options, tokenizer, report, key)

                def ask(one: Benchmark, model: Any, **some: Any) -> Mapping[str, Any]:
                    found: Mapping[str, Any] = simple_evaluate(
                        model=model,
                        tasks=[one.task],
                        num_fewshot=one.num_fewshot,
                        task_manager=manager,
                        bootstrap_iters=0,
                        apply_chat_template=one.apply_chat_template,
                        fewshot_as_multiturn=one.fewshot_as_multiturn,
                        **some,
                    )
                    return found

                commands += [self._command(one, options.served_model_name, seed) for seed in seeds or (None,)]
                drawn = [ask(one, model, gen_kwargs=one.generation(seed), **whole) for seed in seeds]
                answered = drawn or [ask(one, model, **whole)]
                count = sum(map(len, part.values()))
                each = [
                    questions.scored(
                        one,
                        questions.of_part(found, part),
                        self.files.name,
                        one.category or self.category,
                        tasks,
                        count=count,
                        apart=bool(self.progress.looks),
                    )
                    for found in answered
                ]
                scored.append(questions.averaged(each, told=bool(self.progress.looks)))
                cut[one.key] = model.traffic.cut
                if self.repeated and not drawn:
                    (found,) = answered
                    # The first ones of each task: then its examples are drawn as they were, and the prompts are the same.
                    first = max(1, self.repeated // len(found["samples"]))
                    some = {
                        task: part[task][: min(first, questions.count(rows))] for task, rows in found["samples"].items()
                    }
                    report.log(f"{one.title}: asking {sum(map(len, some.values()))} questions again")
                    noise[one.key] = questions.noise(one, found, ask(one, model, samples=some))
                counts.append(model.traffic.counts)
        return Ran(
            scored=tuple(scored),
            requests=RequestCounts(
                **{name: sum(getattr(one, name) for one in counts) for name in ("sent", "retried", "failed")}
            ),
            cut={key: number for key, number in cut.items() if number},
            commands=tuple(commands),
            noise=noise,
        )

    @staticmethod
    def _whole(part: Mapping[str, Sequence[int]], tasks: Mapping[str, Any]) -> bool:
        return all(len(part[name]) == len(task.eval_docs) for name, task in tasks.items())

    def _confined(self, stack: ExitStack) -> ConfinedTokenizer | None:
        """One child for all benchmarks, which ends with the stack; none where the server does all that is done with a tokenizer."""
        if self.tokenizer is None or all(one.api == "chat" for one in self.benchmarks):
            return None
        return stack.enter_context(confined_tokenizer(self.tokenizer))

    def check(self) -> None:
        """Raises BadInput for an unknown task or a missing data folder; reads no data."""
        data.configure(self.settings, self.scratch)
        self._local_data()
        self._manager(self._written())

    def _written(self) -> Path:
        """Write the suite's own files to disk, for the harness; raises BadInput for tasks that could run code."""
        task_files.check(self.files)
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
                f"there is no folder {folder}, which evaluate.data names", remedy="create it, or unset evaluate.data"
            )
        return folder

    def _manager(self, folder: Path) -> Any:
        """A task manager that loads each task only once."""
        from lm_eval.tasks import TaskManager

        class CachingTaskManager(TaskManager):  # type: ignore[misc]
            held: dict[str, Any]

            def load(self, task_list: Any) -> Any:
                (name,) = task_list
                if name not in self.held:
                    self.held[name] = super().load([name])
                return self.held[name]

        own = all(f"{task_files.TASKS}/{one.task}.yaml" in self.files.files for one in self.benchmarks)
        manager = CachingTaskManager(
            include_path=str(folder / task_files.TASKS) if (folder / task_files.TASKS).is_dir() else None,
            include_defaults=not own,
        )
        manager.held = {}
        for one in self.benchmarks:
            if one.task not in manager.task_index:
                near = get_close_matches(one.task, manager.task_index, 1)
                raise BadInput(
                    f"the suite {self.files.name} asks for the task {one.task}, which lm-evaluation-harness "
                    f"{version('lm_eval')} does not have",
                    remedy=f"did you mean {near[0]}?"
                    if near
                    else f"`lm_eval ls tasks` lists them; {task_files.TASKS}/ adds one",
                )
        return manager

    def _tasks(self, folder: Path, places: data.Places) -> Any:
        """A task manager with all tasks and data loaded, so that missing data is found before the first request."""
        manager = self._manager(folder)
        for one in self.benchmarks:
            # Some tasks shuffle choices while they are loaded; every model must see the same order.
            random.seed(_SEEDS[0])
            np.random.seed(_SEEDS[1])  # noqa: NPY002 - the generator that tasks use
            tasks = manager.load([one.task])["tasks"]
            questions.check_metric(one, tasks, self.files.name)
            if any("ifeval" in name for name in tasks):
                data.check_sentences(places)
            count = sum(len(task.eval_docs) for task in tasks.values())
            if count != one.samples:
                raise BadInput(
                    f"{one.title} of the suite {self.files.name} has {count} questions here, and {one.samples} are "
                    "declared: an incomplete sample set never passes",
                    remedy=f"provide the complete data set {one.data_set}, in the version that the suite was written for",
                )
        return manager

    def _command(self, one: Benchmark, model: str, seed: int | None) -> str:
        return shlex.join(command(one, url=_CARD_ENDPOINT, model=model, tokenizer=model, output="results", seed=seed))


def run_benchmarks(  # noqa: PLR0917 - a suite, what it declares, and where things are
    files: SuiteFiles,
    declared: Sequence[Benchmark],
    options: EvaluateOptions,
    store: Store,
    context: Context,
    category: str = "",
    repeated: int = 0,
    progress: LookProgress = AT_ONCE,
) -> Ran:
    """Run them at the endpoint, with the tokenizer of what is measured; raises as `Harness.run` does."""
    folder = tokenizer.materialize(options, store, context.settings, context.scratch / "tokenizer")
    scratch, settings = context.scratch / "harness", context.settings
    harness = Harness(files, declared, scratch, settings, folder, category, repeated, progress)
    return harness.run(options, context.report)
