"""The distance of a candidate from its baseline on the same text: per token, per passage, then with bounds.

All logarithms are natural. P is the baseline, Q the candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from containers.contract import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from containers.evaluate.measurement import Arrays, Passage


_TINY = 1e-6


@dataclass(frozen=True)
class PerToken:
    """One value for each position where both models have finite numbers."""

    dlogp: NDArray[np.float64]
    kl: NDArray[np.float64]
    agree: NDArray[np.float64]
    baseline_logprob: NDArray[np.float64]
    passage: NDArray[np.int64]


def per_token(baseline: Arrays, candidate: Arrays, passages: Sequence[Passage], *, skip: int) -> PerToken:
    """Compare position by position; the first `skip` of each passage are left out.

    The tokens must be the same (the caller has checked). Positions without a finite number on either side are left
    out too: the caller counts them.
    """
    number = np.concatenate([np.full(p.tokens, i) for i, p in enumerate(passages)])
    offset = np.concatenate([np.arange(p.tokens) for p in passages])
    p, q = baseline.logprobs.astype(np.float64), candidate.logprobs.astype(np.float64)
    used = (offset >= max(skip, 1)) & np.isfinite(p) & np.isfinite(q)
    kl = np.array(
        [
            least_kl(
                dict(zip(baseline.top_ids[i].tolist(), baseline.top_logprobs[i].tolist(), strict=True)),
                dict(zip(candidate.top_ids[i].tolist(), candidate.top_logprobs[i].tolist(), strict=True)),
            )
            for i in np.flatnonzero(used)
        ]
    )
    return PerToken(
        dlogp=(q - p)[used],
        kl=kl,
        agree=(baseline.top_ids[used, 0] == candidate.top_ids[used, 0]).astype(np.float64),
        baseline_logprob=p[used],
        passage=number[used],
    )


def least_kl(p: dict[int, float], q: dict[int, float]) -> float:
    """The smallest KL(P || Q), in nats, that agrees with what the two lists of likeliest tokens say.

    `p` and `q` map token ids to log-probabilities; id -1 stands for nothing. What P lists and Q does not has at most
    the probability of Q's least likely listed token. Below those caps the divergence is smallest when Q's unlisted
    probability is dealt out in proportion to P's, so the tokens that P finds likeliest reach the cap first. Everything
    that P does not list counts as one token; lumping never increases a divergence (data processing inequality).
    """
    p, q = ({token: value for token, value in x.items() if token >= 0 and math.isfinite(value)} for x in (p, q))
    common = p.keys() & q.keys()
    total = sum(math.exp(p[token]) * (p[token] - q[token]) for token in common)
    # Float32 log-probabilities do not add up to 1 exactly; below this a rest is rounding and no probability.
    rest_p = max(1 - sum(math.exp(p[token]) for token in common), _TINY)
    rest_q = max(1 - sum(math.exp(q[token]) for token in common), _TINY)
    cap = min(q.values(), default=0.0)
    for logp in sorted((p[token] for token in p.keys() - common), reverse=True):
        share = math.exp(logp)
        if rest_q * share <= rest_p * math.exp(cap) or rest_p - share < _TINY or rest_q - math.exp(cap) < _TINY:
            break
        total += share * (logp - cap)
        rest_p -= share
        rest_q -= math.exp(cap)
    return max(total + rest_p * math.log(rest_p / rest_q), 0.0)


class Estimate(Frozen):
    """A mean with the bounds of a one-sided confidence interval on either side; `blocks` is what it rests on.

    A single block shows no spread, so it has no bounds.
    """

    value: float
    lower: float | None
    upper: float | None
    blocks: int


def estimate(values: NDArray[np.float64], groups: NDArray[np.int64], *, block: int, confidence: float) -> Estimate:
    """The mean of `values`, with bounds from the spread of blocks of `block` neighbours within one group.

    Neighbouring tokens share their context, so single tokens are no independent observations; blocks nearly are.
    Bounds by the normal approximation of the ratio estimator sum(block sums) / sum(block sizes).
    """
    sums, sizes = [], []
    for group in np.unique(groups):
        inside = values[groups == group]
        for start in range(0, len(inside), block):
            piece = inside[start : start + block]
            sums.append(piece.sum())
            sizes.append(len(piece))
    total, count, blocks = float(np.sum(sums)), float(np.sum(sizes)), len(sums)
    mean = total / count
    if blocks < 2:
        return Estimate(value=mean, lower=None, upper=None, blocks=blocks)
    residual = np.asarray(sums) - mean * np.asarray(sizes)
    error = math.sqrt(blocks / (blocks - 1) * float(residual @ residual)) / count
    reach = NormalDist().inv_cdf(confidence) * error
    return Estimate(value=mean, lower=mean - reach, upper=mean + reach, blocks=blocks)


def perplexity(logprobs: NDArray[np.float64]) -> float:
    """exp of the mean negative log-probability, from the log-probabilities of the text's tokens."""
    return math.exp(min(-float(logprobs.mean()), 700.0))  # e^700 is the largest that a float holds


def measures(tokens: PerToken, *, block: int, confidence: float) -> dict[str, Estimate]:
    """All measures that a suite can limit, by name."""

    def over(values: NDArray[np.float64]) -> Estimate:
        return estimate(values, tokens.passage, block=block, confidence=confidence)

    ratio = over(-tokens.dlogp)
    found = {
        "kl_mean": over(tokens.kl),
        "top1_agreement": over(tokens.agree),
        "abs_dlogp_mean": over(np.abs(tokens.dlogp)),
        "perplexity_ratio": Estimate(
            value=math.exp(min(ratio.value, 700.0)),
            lower=_exp(ratio.lower),
            upper=_exp(ratio.upper),
            blocks=ratio.blocks,
        ),
    }
    each = [
        estimate(tokens.kl[chosen], tokens.passage[chosen], block=block, confidence=confidence)
        for number in np.unique(tokens.passage)
        if (chosen := tokens.passage == number).sum() >= 2 * block
    ]
    found["worst_passage_kl"] = max(each, key=lambda one: one.value, default=found["kl_mean"])
    return found


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(max(min(value, 700.0), -700.0))
