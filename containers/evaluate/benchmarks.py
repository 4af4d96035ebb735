"""Suites of benchmarks: what a person declares in suite.yaml, and the command of the harness that it comes to."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from containers.contract import Frozen
from containers.errors import BadInput
from containers.suites import DECLARATION, SHIPPED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from containers.suites import SuiteFiles

Positive = Annotated[int, Field(gt=0)]
Points = Annotated[float, Field(ge=0, le=100)]


class Serving(Frozen):
    max_model_len: Positive


class Gate(Frozen):
    """Margins in points. Below `recovery_needs` points of the baseline a recovery says nothing and is N/A."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    margin: Points = 2.0
    margin_average: Points = 1.0
    recovery_needs: Points = 5.0


class Benchmark(Frozen):
    """One row of the card's table. `max_length` and `max_gen_toks` in tokens; `metric` is the harness's `name,filter`.

    `api`: completions renders the prompt on this side (log-likelihoods, answers that are begun for the model), chat
    leaves it to the server.
    """

    key: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    task: str
    metric: str = Field(pattern=r"^[a-z_0-9]+,[a-z_\-]+$")
    num_fewshot: Annotated[int, Field(ge=0)]
    api: Literal["completions", "chat"]
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    add_bos_token: bool = False
    max_length: Positive
    max_gen_toks: Positive | None = None
    samples: Positive
    data_set: str
    margin: Points | None = None


class BenchmarkSuite(Frozen):
    """`category` is the first column of the card's table."""

    schema_version: Literal[1]
    name: str
    description: str
    category: str = ""
    serving: Serving
    gate: Gate = Gate()
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_benchmarks(self.benchmarks, self.serving.max_model_len)
        return self


def check_benchmarks(benchmarks: Sequence[Benchmark], max_model_len: int) -> None:
    """Raises ValueError for two of one key, and for one that an endpoint of that length would not take."""
    keys = [one.key for one in benchmarks]
    if len(set(keys)) != len(keys):
        raise ValueError("two benchmarks have one key")
    for one in benchmarks:
        # The harness sends at most max_length - 1 tokens and would cut what is longer without a word.
        if one.max_length > max_model_len:
            raise ValueError(f"{one.key} sends up to {one.max_length} tokens, and serving.max_model_len is less")


def parse(files: SuiteFiles) -> BenchmarkSuite:
    """Read the declaration; raises BadInput that names the suite, the field and what is wrong with it."""
    declared = declaration(files)
    try:
        suite = BenchmarkSuite.model_validate(declared)
    except ValidationError as error:
        raise unfit(files, error, BenchmarkSuite, Benchmark, Gate, Serving) from error
    if suite.name != files.name:
        raise BadInput(f"the suite in the folder {files.name} calls itself {suite.name}", remedy="give both one name")
    return suite


def declaration(files: SuiteFiles) -> Any:
    """The YAML of a suite, unchecked; raises BadInput when it is none."""
    try:
        return yaml.safe_load(files.files.get(DECLARATION, ""))
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        where = f"line {at.line + 1}, column {at.column + 1}: {getattr(error, 'problem', '')}" if at else str(error)
        raise BadInput(
            f"{DECLARATION} of the suite {files.name} is not YAML: {where}", remedy="correct it there"
        ) from error


def unfit(files: SuiteFiles, error: ValidationError, *known: type[Frozen]) -> BadInput:
    """One message for all that is wrong with a declaration; `known` are the models whose fields it may have."""
    fields = {name for model in known for name in model.model_fields}
    wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {_said(e, fields)}" for e in error.errors())
    return BadInput(
        f"{DECLARATION} of the suite {files.name} does not fit: {wrong}",
        remedy=f"the suites that ship have every field, with what it means: {SHIPPED}",
    )


def _said(error: ErrorDetails, fields: set[str]) -> str:
    if error["type"] != "extra_forbidden":
        return error["msg"]
    name = str(error["loc"][-1])
    near = get_close_matches(name, fields - {name}, 1)
    return "there is no such field" + (f", did you mean {near[0]}?" if near else "")


def of_benchmarks(files: SuiteFiles) -> bool:
    """Whether a suite declares benchmarks, and no fidelity text."""
    declared = declaration(files)
    return isinstance(declared, dict) and "benchmarks" in declared


def command(
    benchmark: Benchmark, *, url: str, model: str, tokenizer: str, output: Path | str, concurrency: int = 8
) -> list[str]:
    """The harness's command for one benchmark, without the interpreter: what the step runs and what the card prints.

    `url` is the base of the OpenAI API; `tokenizer` a folder or a hub name (the harness counts tokens with it, and
    renders prompts where the server does not).
    """
    arguments: dict[str, str | int] = {
        "model": model,
        "base_url": f"{url}/{'chat/completions' if benchmark.api == 'chat' else 'completions'}",
        "num_concurrent": concurrency,
        "max_retries": 4,
        "max_length": benchmark.max_length,
    }
    if benchmark.api == "completions":
        arguments |= {"tokenizer_backend": "huggingface", "tokenizer": tokenizer}
    if benchmark.add_bos_token:
        arguments |= {"add_bos_token": "True"}
    if benchmark.max_gen_toks is not None:
        arguments["max_gen_toks"] = benchmark.max_gen_toks
    argv = ["lm_eval", "run"]
    argv += ["--model", "local-chat-completions" if benchmark.api == "chat" else "local-completions"]
    argv += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    argv += ["--tasks", benchmark.task, "--num_fewshot", str(benchmark.num_fewshot)]
    if benchmark.apply_chat_template:
        argv.append("--apply_chat_template")
    argv += ["--fewshot_as_multiturn", str(benchmark.fewshot_as_multiturn)]
    return [*argv, "--batch_size", "1", "--log_samples", "--output_path", str(output)]
