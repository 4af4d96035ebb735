"""Suites of questions that are answered by calling functions, in the format of the Berkeley Function Calling Leaderboard."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.endpoint_key import authorization
from containers.evaluate import sanity
from containers.evaluate.client import Client
from containers.evaluate.declaration import Points, Questions, ScoredDeclaration, parse
from containers.evaluate.kinds.scored import judge_samples
from containers.evaluate.measure import gather
from containers.evaluate.measurement import RequestCounts, Scored
from containers.evaluate.samples import Samples
from containers.evaluate.tool_calling.asking import CallSampling, ask
from containers.evaluate.tool_calling.checker import fault
from containers.evaluate.tool_calling.questions import read_questions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from containers.evaluate.suite import Judgement, Sizes
    from containers.evaluate.tool_calling.checker import Call
    from containers.evaluate.tool_calling.questions import Question
    from containers.events import Progress
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles

_REPEATED = 16  # questions of a category that are asked twice at most, to measure the server's noise
_SHARE = 10  # and at most one of so many


class Category(Frozen):
    """One file of questions. `expected`: `calls` those of the file of answers, `none` that nothing is called (BFCL's irrelevance),
    `some` that anything is (its relevance). `data_set` names the questions: what has the same one counts as dependent.
    """

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    questions: str
    answers: str = ""
    expected: Literal["calls", "none", "some"] = "calls"
    samples: Questions
    category: str = ""
    data_set: str = ""
    margin: Points | None = None
    averaged: bool = True

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if bool(self.answers) != (self.expected == "calls"):
            raise ValueError(f"`answers` belong to `expected: calls`, and {self.key} expects {self.expected}")
        return self


class ToolCalling(CallSampling):
    """How the questions are asked, and which."""

    categories: Annotated[tuple[Category, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _apart(self) -> Self:
        keys = [one.key for one in self.categories]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two categories have the key {twice[0]}")
        return self


class ToolCallingDeclaration(ScoredDeclaration):
    tool_calling: ToolCalling


@dataclass(frozen=True)
class _CategoryResult:
    """What became of a category: the score of each question, why some are wrong, and how often the server differed from itself."""

    scores: dict[str, float]
    faults: Counter[str]
    cut: int
    noise: float


@dataclass(frozen=True)
class ToolCallingSuite:
    """See `containers.evaluate.suite.Suite`."""

    declared: ToolCallingDeclaration
    files: SuiteFiles

    @classmethod
    def read(cls, files: SuiteFiles) -> ToolCallingSuite:
        return cls(parse(files, ToolCallingDeclaration), files)

    def check(self, context: Context) -> None:
        self.questions()

    def questions(self) -> dict[str, tuple[Question, ...]]:
        """The questions of every category; raises BadInput for those that cannot be asked."""
        return {
            one.key: read_questions(self.files, one.questions, one.answers, one.samples)
            for one in self.declared.tool_calling.categories
        }

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        return asyncio.run(self._measured(parameters, options, context)).files()

    async def _measured(self, parameters: EvaluateParameters, options: EvaluateOptions, context: Context) -> Samples:
        questions = self.questions()
        key = authorization(context.settings.evaluate, options.endpoint)
        found: dict[str, _CategoryResult] = {}
        async with Client(options, headers=key) as client:
            length = await sanity.served(client, self.declared.serving.max_model_len)
            total = sum(len(one) + _repeated(one) for one in questions.values())
            with context.report.progress("tool calling", total=total, unit="questions") as progress:
                for one in self.declared.tool_calling.categories:
                    found[one.key] = await self._asked(client, one, questions[one.key], progress)
                    context.report.log(_told(one, found[one.key]))
            requests = RequestCounts(**vars(client.counts))
        return Samples.of(
            self.files,
            parameters,
            max_model_len=length,
            benchmarks=tuple(self._scored(one, found[one.key].scores) for one in self.declared.tool_calling.categories),
            requests=requests,
            cut={name: one.cut for name, one in found.items() if one.cut},
            noise={name: one.noise for name, one in found.items()},
        )

    async def _asked(
        self, client: Client, category: Category, questions: Sequence[Question], progress: Progress
    ) -> _CategoryResult:
        """All questions of a category, and then the first of them once more."""

        async def one(question: Question) -> tuple[str, bool]:
            calls, cut = await ask(client, question, self.declared.tool_calling)
            progress.advance(1)
            return wrong(category.expected, question, calls), cut

        answered = await gather([one(question) for question in questions])
        faults = [why for why, _ in answered]
        some = questions[: _repeated(questions)]
        again = [why for why, _ in await gather([one(question) for question in some])]
        return _CategoryResult(
            scores={question.id: float(not why) for question, why in zip(questions, faults, strict=True)},
            faults=Counter(filter(None, faults)),
            cut=sum(cut for _, cut in answered),
            noise=sum(bool(later) is not bool(why) for later, why in zip(again, faults, strict=False)) / len(some),
        )

    def _scored(self, category: Category, scores: Mapping[str, float]) -> Scored:
        return Scored(
            key=category.key,
            title=category.title,
            scores=dict(scores),
            category=category.category or self.declared.category,
            data_set=category.data_set or category.questions,
            margin=category.margin,
            averaged=category.averaged,
        )

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        return judge_samples(self.files, self.declared.gate, candidate, baseline, sizes)


def _repeated(questions: Sequence[Question]) -> int:
    return min(_REPEATED, -(-len(questions) // _SHARE))


def wrong(expected: str, question: Question, calls: tuple[Call, ...] | None) -> str:
    """What is wrong with an answer, empty for a right one. What cannot be read as calls does not count as a call, as with BFCL."""
    if expected == "none":
        return "a call" if calls else ""
    if not calls:
        return "no call"
    return "" if expected == "some" else fault(question, calls)


def _told(category: Category, found: _CategoryResult) -> str:
    right = sum(found.scores.values())
    reasons = ", ".join(f"{count} {why}" for why, count in found.faults.most_common())
    return f"{category.title}: {right:.0f} of {len(found.scores)} right" + (f" ({reasons})" if reasons else "")
