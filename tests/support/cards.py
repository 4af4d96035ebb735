"""A model card to render, and what is in one."""

from __future__ import annotations

import re

from containers.digest import Digest
from containers.verdict import Score
from flows.release.card import CardFacts

DIGEST = Digest("ab" * 32)
FACTS = CardFacts(
    name="Llama-3.3-70B-Instruct-FP8-dynamic",
    base_model="meta-llama/Llama-3.3-70B-Instruct",
    base_revision="0123456789abcdef0123456789abcdef01234567",
    source="hf://meta-llama/Llama-3.3-70B-Instruct@0123456789abcdef0123456789abcdef01234567",
    license="llama3.3",
    license_link="https://example.com/license",
    architecture="LlamaForCausalLM",
    languages=("en", "de"),
    reference=f"quay.io/models/llama-3-3-70b@{DIGEST}",
    tag="1.5",
    digest=DIGEST,
    size_before=141_000_000_000,
    size_after=71_000_000_000,
    versions={"llmcompressor": "0.14.0.1"},
    tensor_parallel_size=8,
    max_model_len=32768,
    server="vllm 0.23.0",
    suite="openllm-v1",
    decision="pass",
    reasons=("Every benchmark stays within its margin.",),
    scores=(
        Score(category="OpenLLM v1", title="MMLU (5-shot)", data_set="hails/mmlu_no_train", baseline=81.60, candidate=81.31,
              lower=-0.61, upper=0.11),
        Score(category="OpenLLM v2", title="Math-lvl-5 (4-shot)", data_set="math", baseline=0.17, candidate=0.33,
              not_applicable=True),
        Score(category="smoke", title="Perplexity, shipped text", data_set="carwright/smoke", metric="perplexity",
              baseline=20.0, candidate=25.0, lower=4.0, upper=6.0, lower_is_better=True),
    ),
    commands=("lm_eval run --model local-completions --tasks mmlu_llama",),
    podman_image="registry.example.com/rhaiis/vllm:3",
    kserve_image="registry.example.com/rhoai/vllm:2",
)  # fmt: skip


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)
