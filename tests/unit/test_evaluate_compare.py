"""The numbers behind the verdict, against values worked out from first principles (by hand, or by scipy)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import rel_entr
from scipy.stats import norm

from containers.evaluate.compare import estimate, least_kl, measures, per_token, perplexity
from containers.evaluate.measurement import Arrays, Passage

K = 20


def arrays(distributions: np.ndarray, tokens: list[int], *, k: int = K) -> Arrays:
    """What an endpoint gives for full distributions [n, vocabulary]."""
    order = np.argsort(-distributions, axis=1, kind="stable")[:, :k].astype(np.int32)
    logs = np.log(distributions)
    return Arrays(
        np.asarray(tokens, np.int32),
        np.array([logs[i, t] for i, t in enumerate(tokens)], np.float32),
        order,
        np.take_along_axis(logs, order, axis=1).astype(np.float32),
    )


def test_kl_of_two_tokens_by_hand() -> None:
    """KL((0.5, 0.5) || (0.25, 0.75)) = 0.5 ln 2 + 0.5 ln(2/3) = 0.143841..."""
    p = {1: math.log(0.5), 2: math.log(0.5)}
    q = {1: math.log(0.25), 2: math.log(0.75)}
    assert least_kl(p, q) == pytest.approx(0.1438410362, abs=1e-9)


def test_kl_lumps_what_is_not_listed() -> None:
    """P's rest of 0.5 against Q's of 0.75: KL((0.5, 0.5) || (0.25, 0.75)) again."""
    assert least_kl({1: math.log(0.5)}, {1: math.log(0.25)}) == pytest.approx(0.1438410362, abs=1e-9)


def test_kl_caps_what_the_other_does_not_list() -> None:
    """P = (0.9, rest 0.1). Q lists tokens 2 and 3 with 0.6 and 0.1, so it gives token 1 at most 0.1.

    0.9 ln(0.9 / 0.1) + 0.1 ln(0.1 / 0.9) = 1.757780...
    """
    p, q = {1: math.log(0.9)}, {2: math.log(0.6), 3: math.log(0.1)}
    assert least_kl(p, q) == pytest.approx(0.8 * math.log(9), abs=1e-9)


def test_kl_ignores_unknown_entries() -> None:
    p = {1: math.log(0.5), -1: math.nan}
    assert least_kl(p, {1: math.log(0.5), -1: math.nan}) == 0


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.5, 3.0]))
def test_kl_is_a_lower_bound(seed: int, damage: float) -> None:
    """Between 0 and the full divergence over 200 tokens (scipy's rel_entr), and exact when all of them are listed."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 200)
    p = np.exp(logits) / np.exp(logits).sum()
    moved = logits + rng.normal(0, damage, 200)
    q = np.exp(moved) / np.exp(moved).sum()
    full = float(rel_entr(p, q).sum())
    both = [dict(enumerate(np.log(x).tolist())) for x in (p, q)]
    assert least_kl(*both) == pytest.approx(full, abs=1e-5)
    top = [dict(sorted(x.items(), key=lambda item: -item[1])[:K]) for x in both]
    assert -1e-12 <= least_kl(*top) <= full + 1e-6


@pytest.mark.parametrize("seed", range(12))
def test_kl_is_the_smallest_that_the_lists_allow(seed: int) -> None:
    """Against scipy's minimum over all ways to deal out what Q does not list, none of it above Q's last listed one."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(30, 0.4)), rng.dirichlet(np.full(30, 0.4))
    listed_p, listed_q = np.argsort(-p)[:6], np.argsort(-q)[:6]
    common = sorted(set(listed_p.tolist()) & set(listed_q.tolist()))
    alone = sorted(set(listed_p.tolist()) - set(common))
    cap, left = q[listed_q].min(), 1 - q[common].sum()
    shares = np.append(p[alone], 1 - p[listed_p].sum())
    start = np.append(np.full(len(alone), min(cap, left) * 0.5 / max(len(alone), 1)), 0.0)
    start[-1] = left - start.sum()
    found = minimize(
        lambda dealt: float(np.sum(shares * np.log(shares / dealt))),
        start,
        bounds=[*[(1e-9, cap)] * len(alone), (1e-9, 1.0)],
        constraints={"type": "eq", "fun": lambda dealt: dealt.sum() - left},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    expected = float(np.sum(p[common] * np.log(p[common] / q[common]))) + float(found.fun)
    told = [{int(i): math.log(x[i]) for i in listed} for x, listed in ((p, listed_p), (q, listed_q))]
    assert least_kl(*told) == pytest.approx(max(expected, 0), abs=2e-4)


def test_measures_of_a_small_text_by_numpy() -> None:
    """Two passages of 40 tokens over a vocabulary of 20, all of it listed: every measure has a closed form."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(K), 80)
    q = 0.9 * p + 0.1 * rng.dirichlet(np.ones(K), 80)
    tokens = rng.integers(0, K, 80).tolist()
    passages = (Passage(path="a", start=0, tokens=40), Passage(path="b", start=40, tokens=40))
    used = np.array([i % 40 >= 1 for i in range(80)])
    lp, lq = (np.log(x[np.arange(80), tokens])[used] for x in (p, q))

    found = per_token(arrays(p, tokens), arrays(q, tokens), passages, skip=1)
    numbers = measures(found, block=8, confidence=0.99)

    assert len(found.kl) == 78
    assert numbers["kl_mean"].value == pytest.approx(rel_entr(p, q).sum(axis=1)[used].mean(), abs=1e-5)
    assert numbers["abs_dlogp_mean"].value == pytest.approx(np.abs(lq - lp).mean(), abs=1e-5)
    assert numbers["perplexity_ratio"].value == pytest.approx(math.exp(-lq.mean()) / math.exp(-lp.mean()), rel=1e-5)
    assert numbers["top1_agreement"].value == pytest.approx((p.argmax(1) == q.argmax(1))[used].mean())
    worst = max(rel_entr(p, q).sum(axis=1)[used].reshape(2, 39).mean(axis=1))
    assert numbers["worst_passage_kl"].value == pytest.approx(worst, abs=1e-5)
    assert perplexity(found.baseline_logprob) == pytest.approx(math.exp(-lp.mean()), rel=1e-5)


def test_bounds_of_equal_blocks_by_scipy() -> None:
    """With blocks of one size the bounds are those of the mean of the blocks' means."""
    values = np.random.default_rng(5).normal(1, 2, 320)
    means = values.reshape(10, 32).mean(axis=1)
    reach = norm.ppf(0.975) * means.std(ddof=1) / math.sqrt(10)
    found = estimate(values, np.zeros(320, int), block=32, confidence=0.975)
    assert (found.lower, found.value, found.upper) == pytest.approx(
        (means.mean() - reach, means.mean(), means.mean() + reach)
    )


def test_bounds_cover_the_truth_as_often_as_they_say() -> None:
    """Tokens that depend on their neighbours: of 400 texts about 95 % have their upper bound above the true mean of 0."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        noise = rng.normal(size=2004)
        values = noise[4:] + noise[3:-1] + noise[2:-2] + noise[1:-3] + noise[:-4]
        found = estimate(values, np.repeat(np.arange(10), 200), block=32, confidence=0.95)
        covered += found.upper is not None and found.upper > 0
    assert 0.92 <= covered / 400 <= 0.98


def test_one_block_has_no_bounds() -> None:
    found = estimate(np.ones(10), np.zeros(10, int), block=32, confidence=0.95)
    assert found.lower is None
    assert found.upper is None


def test_positions_without_a_finite_number_are_left_out() -> None:
    p = np.full((5, K), 1 / K)
    first, second = arrays(p, [0, 1, 2, 3, 4]), arrays(p, [0, 1, 2, 3, 4])
    second.logprobs[3] = math.nan
    found = per_token(first, second, (Passage(path="a", start=0, tokens=5),), skip=2)
    assert len(found.kl) == 2
