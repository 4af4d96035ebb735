"""What a suite of the fidelity kind declares, and the text whose log-probabilities are compared."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate.declaration import ChatMessage, Declaration, Positive, ServingNeeds, parse
from containers.evaluate.fidelity_gate import FidelityGate
from containers.evaluate.harness.benchmark import Benchmark, check_benchmarks

if TYPE_CHECKING:
    from containers.suites import SuiteFiles


class FidelityServing(ServingNeeds):
    """`max_logprobs` is vLLM's --max-logprobs, which must allow fidelity.top_k."""

    max_logprobs: Positive = 20


class Sanity(Frozen):
    max_tokens: Positive = 32
    chat: tuple[str, ...] = Field(min_length=1)
    completion: tuple[str, ...] = Field(min_length=1)
    repeats: Annotated[int, Field(ge=2)] = 3
    long_prompt_tokens: Positive
    concurrent: Positive = 8


class Fidelity(Frozen):
    """`text` are patterns of paths inside the suite; each file is one passage."""

    text: tuple[str, ...] = Field(min_length=1)
    top_k: Annotated[int, Field(gt=0, le=20)] = 20
    repeat: str
    skip: Annotated[int, Field(ge=0)] = 1
    chat_template: tuple[ChatMessage, ...] = Field(min_length=1)


class FidelityDeclaration(Declaration):
    """`tasks` are small benchmarks of the suite's own (its folder `tasks`): they are reported, and fidelity decides."""

    serving: FidelityServing
    sanity: Sanity
    fidelity: Fidelity
    gate: FidelityGate
    tasks: tuple[Benchmark, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_benchmarks(self.tasks, self.serving.max_model_len)
        return self


@dataclass(frozen=True)
class FidelityText:
    """A parsed declaration and the suite's files."""

    declared: FidelityDeclaration
    files: SuiteFiles

    @classmethod
    def read(cls, files: SuiteFiles) -> Self:
        suite = cls(parse(files, FidelityDeclaration), files)
        wanted = suite.declared.fidelity
        if not suite.passages:
            raise BadInput(f"no file of the suite {files.name} matches fidelity.text {list(wanted.text)}")
        if wanted.repeat not in suite.passages:
            raise BadInput(f"fidelity.repeat of the suite {files.name} is none of its passages: {wanted.repeat}")
        return suite

    @property
    def passages(self) -> dict[str, str]:
        """The fidelity text by path, sorted."""
        wanted = self.declared.fidelity.text
        return {
            path: text
            for path, text in sorted(self.files.files.items())
            if any(fnmatchcase(path, pattern) for pattern in wanted)
        }
