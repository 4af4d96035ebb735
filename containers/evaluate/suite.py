"""What a suite file says, parsed once and frozen; a typing error in it is one clear message."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate.benchmarks import Benchmark, check_benchmarks, declaration, unfit
from containers.suites import SuiteFiles, read

if TYPE_CHECKING:
    from containers.contract import EvaluateOptions, EvaluateParameters

Positive = Annotated[int, Field(gt=0)]
MEASURES = ("kl_mean", "top1_agreement", "abs_dlogp_mean", "perplexity_ratio", "worst_passage_kl")


class Serving(Frozen):
    """What the endpoint must have been started with; lengths in tokens."""

    max_model_len: Positive
    max_logprobs: Positive = 20


class Message(Frozen):
    role: Literal["system", "user", "assistant"]
    content: str


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
    chat_template: tuple[Message, ...] = Field(min_length=1)


class Limit(Frozen):
    """Exactly one side."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a limit has either at_most or at_least")
        return self


class Gate(Frozen):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    block: Positive = 32
    limits: dict[Literal["kl_mean", "top1_agreement", "abs_dlogp_mean", "perplexity_ratio", "worst_passage_kl"], Limit]


class Suite(Frozen):
    """`tasks` are small benchmarks of the suite's own (its folder `tasks`): they are reported, and fidelity decides."""

    schema_version: Literal[1]
    name: str
    description: str
    serving: Serving
    sanity: Sanity
    fidelity: Fidelity
    gate: Gate
    tasks: tuple[Benchmark, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_benchmarks(self.tasks, self.serving.max_model_len)
        return self


class Loaded(Frozen):
    """A suite with its files at hand."""

    suite: Suite
    files: SuiteFiles

    @property
    def passages(self) -> dict[str, str]:
        """The fidelity text by path, sorted."""
        wanted = self.suite.fidelity.text
        return {
            path: text
            for path, text in sorted(self.files.files.items())
            if any(fnmatchcase(path, pattern) for pattern in wanted)
        }


def parse(files: SuiteFiles) -> Loaded:
    """Read the declaration; raises BadInput that names the suite, the field and what is wrong with it."""
    try:
        suite = Suite.model_validate(declaration(files))
    except ValidationError as error:
        known = (Suite, Serving, Sanity, Fidelity, Message, Limit, Gate, Benchmark)
        raise unfit(files, error, *known) from error
    loaded = Loaded(suite=suite, files=files)
    if suite.name != files.name:
        raise BadInput(f"the suite in the folder {files.name} calls itself {suite.name}", remedy="give both one name")
    if not loaded.passages:
        raise BadInput(f"no file of the suite {files.name} matches fidelity.text {list(suite.fidelity.text)}")
    if suite.fidelity.repeat not in loaded.passages:
        raise BadInput(f"fidelity.repeat of the suite {files.name} is none of its passages: {suite.fidelity.repeat}")
    return loaded


def of_request(parameters: EvaluateParameters, options: EvaluateOptions) -> SuiteFiles:
    """The files of the suite that a request means; raises BadInput when they are not those of the digest."""
    files = (
        SuiteFiles(name=parameters.suite, files=options.suite_files) if options.suite_files else read(parameters.suite)
    )
    if files.digest != parameters.suite_digest:
        raise BadInput(
            f"the suite {files.name} here is {files.digest}, and the request means {parameters.suite_digest}",
            remedy="start the step from the same version of the project as the flow",
        )
    return files
