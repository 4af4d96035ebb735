"""Measurements of toys, by the shipped suites: of fidelity, and of answers to questions."""

from __future__ import annotations

import numpy as np

from containers import suites
from containers.evaluate import samples
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.kinds.humaneval import HumanEvalSuite
from containers.evaluate.measurement import (
    Arrays,
    Check,
    Measured,
    Measurement,
    Noise,
    Passage,
    RequestCounts,
    Scored,
    Speed,
)

SMOKE = suites.read("smoke")
SUITE = FidelitySuite.read(SMOKE)
TOKENS = 256  # a passage


def measured(*, damage: float = 0.0, seed: int = 0, **changes: object) -> Measured:
    """A model over 1,000 tokens whose logits are moved by normal noise of size `damage`."""
    rng = np.random.default_rng(17)
    count = TOKENS * len(SUITE.passages)
    logits = rng.normal(0, 3, (count, 1000))
    tokens = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1).astype(np.int32)
    logits = logits + np.random.default_rng(seed).normal(0, damage, logits.shape) if damage else logits
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    order = np.argsort(-logs, axis=1)[:, :20].astype(np.int32)
    about = Measurement(
        suite="smoke",
        suite_digest=SMOKE.digest,
        subject="sha256:" + "a" * 64,
        server="toy",
        server_version="1",
        max_model_len=2048,
        checks=(Check(name="health", passed=True, detail="fine"), Check(name="no loops", passed=True, detail="none")),
        answers={},
        chat_template_tokens=(1, 2, 3),
        passages=tuple(Passage(path=p, start=i * TOKENS, tokens=TOKENS) for i, p in enumerate(SUITE.passages)),
        non_finite=0,
        noise=Noise(abs_dlogp_mean=0, abs_dlogp_max=0, greedy_alike=1, greedy_repeats=3, concurrent_alike=1),
        speed=Speed(first_token=0.1, alone=10, concurrent=80, prefill=500),
        requests=RequestCounts(sent=10, retried=0, failed=0),
    )
    arrays = Arrays(
        tokens,
        logs[np.arange(count), tokens].astype(np.float32),
        order,
        np.take_along_axis(logs, order, axis=1).astype(np.float32),
    )
    return Measured(about.model_copy(update=changes), arrays)


GREEDY = suites.read("humaneval-greedy")
GATE = HumanEvalSuite.read(GREEDY).declared.gate


def scored(right: int, *, count: int = 164, **changes: object) -> samples.Samples:
    one = samples.Samples(
        suite=GREEDY.name,
        suite_digest=GREEDY.digest,
        subject="sha256:" + "a" * 64,
        server="toy",
        benchmarks=(
            Scored(key="humaneval", title="HumanEval", scores={f"{i:03}": float(i < right) for i in range(count)}),
        ),
        requests=RequestCounts(sent=count, retried=0, failed=0),
    )
    return one.model_copy(update=changes)
