"""The suites of HumanEval: functions written by the model, run in a sandbox, scored by problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate import humaneval, humaneval_plus, sanity
from containers.evaluate.benchmarks import Gate, Serving, declaration, unfit
from containers.evaluate.client import Client
from containers.evaluate.measure import together
from containers.evaluate.measurement import Requests, Scored
from containers.evaluate.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import EvaluateOptions
    from containers.evaluate.humaneval import Problem
    from containers.evaluate.sandbox import Outcome
    from containers.events import Reporter
    from containers.settings import EvaluateSettings
    from containers.suites import SuiteFiles

_KEY = "humaneval"
_AGAIN = 16  # problems, a tenth of them


class HumanEvalSuite(Frozen):
    """`category` is the first column of the card's table; with `plus` the same answers are also run on HumanEval+'s inputs."""

    schema_version: Literal[1]
    name: str
    description: str
    category: str = ""
    serving: Serving
    gate: Gate = Gate()
    humaneval: humaneval.Sampling
    plus: bool = False


def is_humaneval(files: SuiteFiles) -> bool:
    """Whether a suite declares HumanEval."""
    declared = declaration(files)
    return isinstance(declared, dict) and _KEY in declared


def parse(files: SuiteFiles) -> HumanEvalSuite:
    """Read the declaration; raises BadInput that names what is wrong with it."""
    try:
        suite = HumanEvalSuite.model_validate(declaration(files))
    except ValidationError as error:
        raise unfit(files, error, HumanEvalSuite, Serving, Gate, humaneval.Sampling) from error
    if suite.name != files.name:
        raise BadInput(f"the suite in the folder {files.name} calls itself {suite.name}", remedy="give both one name")
    return suite


def ready(
    suite: HumanEvalSuite, settings: EvaluateSettings
) -> tuple[Sandbox, Mapping[str, Problem], Mapping[str, Problem]]:
    """The sandbox, the problems of HumanEval, and those of HumanEval+ where the suite asks for them.

    Raises BadInput for the first of them that is not here.
    """
    sandbox = Sandbox.find(kind=settings.sandbox)
    known = humaneval.problems()
    return sandbox, known, humaneval_plus.problems(settings.humaneval_plus, known) if suite.plus else {}


@dataclass(frozen=True)
class Coded:
    """What the model wrote, scored. `length` is what the endpoint offers, in tokens; `cut` and `noise` as in `Samples`."""

    scored: tuple[Scored, ...]
    requests: Requests
    length: int
    cut: dict[str, int]
    noise: dict[str, float]


async def measure(
    suite: HumanEvalSuite, options: EvaluateOptions, settings: EvaluateSettings, report: Reporter
) -> Coded:
    """All problems of HumanEval; greedily, the first ones are asked once more, to know the engine's noise.

    Raises what `containers.evaluate.measure.measure` does, and BadInput without a sandbox or without the problems of
    HumanEval+ where the suite asks for them: both are looked for before the first request.
    """
    sandbox, known, harder = ready(suite, settings)
    cut: list[str] = []
    some = {} if suite.humaneval.temperature else dict(list(known.items())[:_AGAIN])
    async with Client(options) as client:
        length = await sanity.served(client, suite.serving.max_model_len)
        with report.progress("HumanEval, written", total=len(known), unit="problems") as progress:

            async def write(problem: Problem) -> list[str]:
                texts = await humaneval.solutions(client, problem, suite.humaneval, cut)
                progress.advance(1)
                return texts

            texts = await together([write(problem) for problem in known.values()])
        again = await together([humaneval.solutions(client, problem, suite.humaneval) for problem in some.values()])
        requests = Requests(**vars(client.counts))
    written = dict(zip(known, texts, strict=True))
    report.log(f"running what was written, {sandbox}")
    outcomes = await humaneval.score(sandbox, known, written)
    later = await humaneval.score(sandbox, known, dict(zip(some, again, strict=True)))
    scored = [_scored(suite, "humaneval", "HumanEval", outcomes)]
    if harder:
        report.log("running it on the inputs of HumanEval+")
        scored.append(_scored(suite, "humaneval-plus", "HumanEval+", await humaneval.score(sandbox, harder, written)))
    changed = sum([one.passed for one in later[name]] != [one.passed for one in outcomes[name]] for name in later)
    noise = {"humaneval": changed / len(later)} if later else {}
    return Coded(tuple(scored), requests, length, {"humaneval": len(cut)} if cut else {}, noise)


def _scored(suite: HumanEvalSuite, key: str, title: str, outcomes: Mapping[str, list[Outcome]]) -> Scored:
    """pass@1: the share of a problem's answers that pass (what the unbiased estimate comes to for k = 1)."""
    drawn = suite.humaneval
    return Scored(
        key=key,
        title=f"{title} pass@1 ({drawn.samples} at temperature {drawn.temperature:g})",
        scores={name: sum(one.passed for one in found) / len(found) for name, found in outcomes.items()},
        category=suite.category,
        data_set="openai/openai_humaneval" if key == "humaneval" else "evalplus/humanevalplus",
        metric="pass@1",
    )
