"""A program, run by a Python that has vLLM: puts vLLM's own benchmark (`vllm bench serve`) on an endpoint, round after round.

It imports nothing of Carwright. `python vllm_load.py PLAN RESULT`; vLLM takes the key of the endpoint from OPENAI_API_KEY.
PLAN is JSON:

    {"url": base of the OpenAI API, "model": name, "output_tokens": n, "prompt_tokens": n, "prompts": seed,
     "rounds": [{"requests": n, "rate": requests a second or null, "in_flight": n or null, "seed": n}, ...]}

RESULT gets a list with an object for each round: what `benchmark` says of it (vllm/benchmarks/serve.py), and percentiles. A line
with "carwright-round N" goes to standard output after each.

One process makes all rounds: importing vLLM takes seconds. Prompts are token ids drawn at random: every length is exact, no
tokenizer is needed, and no prompt comes twice, also not in the next measurement, which a prefix cache would answer. Requests
arrive at the moments that a round's seed gives, the same for baseline and candidate.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vllm.benchmarks.datasets import SampleRequest
from vllm.benchmarks.serve import TaskType, benchmark

TOKENS = (100, 20_000)  # ids that every vocabulary of a language model has, beyond its special tokens
PERCENTILES = (50, 90, 99)
KEPT = (
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "output_throughput",
)


async def one_round(plan: dict[str, Any], asked: dict[str, Any], chosen: random.Random) -> dict[str, Any]:
    """Run one round; raises what vLLM raises."""
    np.random.seed(asked["seed"])  # noqa: NPY002 - vLLM draws the times of arrival from it
    length, answer = plan["prompt_tokens"], plan["output_tokens"]
    requests = [
        SampleRequest(
            prompt=[chosen.randrange(*TOKENS) for _ in range(length)],
            prompt_len=length,
            expected_output_len=answer,
        )
        for _ in range(asked["requests"])
    ]
    found = await benchmark(
        task_type=TaskType.GENERATION,
        endpoint_type="openai",
        api_url=f"{plan['url']}/completions",
        base_url=plan["url"].removesuffix("/v1"),
        model_id=plan["model"],
        model_name=plan["model"],
        tokenizer=None,
        input_requests=requests,
        logprobs=None,
        request_rate=asked["rate"] or float("inf"),
        burstiness=1.0,
        disable_tqdm=True,
        num_warmups=0,
        profile=False,
        selected_percentile_metrics=["ttft", "itl", "e2el"],
        selected_percentiles=[50.0, 90.0, 99.0],
        ignore_eos=True,
        goodput_config_dict={},
        max_concurrency=asked["in_flight"],
        lora_modules=None,
        extra_headers=None,
        extra_body={"temperature": 0, "min_tokens": answer},
        ready_check_timeout_sec=0,  # it would ask the first prompt, and the cache would know it
    )
    return {
        **{name: float(found[name]) for name in KEPT},
        **percentiles("ttft", found["ttfts"]),
        **percentiles("tpot", [sum(gaps) / (answer - 1) for gaps in found["itls"]]),
        **percentiles("itl", [gap for gaps in found["itls"] for gap in gaps]),
        **percentiles("e2e", [first + sum(gaps) for first, gaps in zip(found["ttfts"], found["itls"], strict=True)]),
        "errors": [str(error)[-2000:] for error in found["errors"] if error][:1],
    }


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """In milliseconds, as vLLM computes them; it prints those of tokens only where it has a tokenizer."""
    return {f"{name}_p{p}": float(np.percentile(seconds or [0.0], p)) * 1000 for p in PERCENTILES}


async def run(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the rounds, up to the first with a failure."""
    chosen = random.Random(plan["prompts"])  # noqa: S311 - prompts, not secrets
    results = []
    for number, asked in enumerate(plan["rounds"], 1):
        results.append(await one_round(plan, asked, chosen))
        print(f"carwright-round {number}", flush=True)
        if results[-1]["failed"]:
            break
    return results


def main() -> None:
    """Read the plan, run it, write the results."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(run(plan))))


if __name__ == "__main__":
    main()
