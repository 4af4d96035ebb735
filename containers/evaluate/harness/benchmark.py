"""One benchmark of lm-evaluation-harness: its declaration, and the command that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.evaluate.declaration import Points, Positive, Questions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Sampling(Frozen):
    """How answers are drawn, in vLLM's names. What is not given is the server's default, which vLLM takes from the model."""

    temperature: Annotated[float, Field(gt=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None


class Benchmark(Frozen):
    """One row of the card's table. `max_length` and `max_gen_toks` in tokens; `metric` is the harness's `name,filter`.

    What is not `averaged` may refuse, and is no part of an average: it has too few questions for one.
    With `sampling` every question is answered once with each of the `seeds`, and its score is the mean. In a suite with looks a
    benchmark that is measured `at_once` is so in the first look, with all its questions and seeds.

    `api`: completions renders the prompt here (for log-likelihoods and answers begun by the prompt), chat leaves it to
    the server.
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
    samples: Questions
    data_set: str
    margin: Points | None = None
    category: str = ""
    averaged: bool = True
    sampling: Sampling | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    at_once: bool = False

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        if (self.sampling is None) != (not self.seeds):
            raise ValueError("sampling and seeds go together: one answer for each seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is given twice, and would give the same answers twice")
        if self.sampling is not None and self.max_gen_toks is None:
            raise ValueError("sampled answers need max_gen_toks")
        return self

    def generation(self, seed: int) -> dict[str, str | float | int | bool]:
        """The harness's generation arguments for the answers of one seed; none without sampling."""
        if self.sampling is None or self.max_gen_toks is None:
            return {}
        drawn = self.sampling.model_dump(exclude_none=True)
        return {"do_sample": True, **drawn, "max_gen_toks": self.max_gen_toks, "seed": seed}


def check_benchmarks(benchmarks: Sequence[Benchmark], max_model_len: int) -> None:
    """Raises ValueError for two of one key, and for one that an endpoint of that length would not take."""
    keys = [one.key for one in benchmarks]
    if len(set(keys)) != len(keys):
        raise ValueError("two benchmarks have one key")
    for one in benchmarks:
        # The harness sends at most max_length - 1 tokens and cuts what is longer, and says nothing.
        if one.max_length > max_model_len:
            raise ValueError(f"{one.key} sends up to {one.max_length} tokens, and serving.max_model_len is less")


def command(
    benchmark: Benchmark,
    *,
    url: str,
    model: str,
    tokenizer: str,
    output: Path | str,
    concurrency: int = 8,
    seed: int | None = None,
) -> list[str]:
    """The harness's command for one benchmark, without the interpreter: what the step runs and what the card prints.

    `seed` is one of the benchmark's seeds, None where it has none.

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
    if seed is not None:
        drawn = ",".join(f"{name}={value}" for name, value in benchmark.generation(seed).items())
        argv += ["--seed", str(seed), "--gen_kwargs", drawn]
    return [*argv, "--batch_size", "1", "--log_samples", "--output_path", str(output)]
