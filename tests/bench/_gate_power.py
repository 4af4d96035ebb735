"""How often the gate decides what, by simulation: the tables of docs/measurements/gate.md.

    python -m tests.bench._gate_power [benchmarks|suites|single|seeds|looks|shape|noise|more]

`benchmarks`: one benchmark by its size, the share of answers that differ, and the true loss. `suites`: whole suites with
the sizes of the declared ones, decided by each rule of the gate and by what is known of an answer. `single`: the same with a
loss in one benchmark alone. `seeds`: the suite that samples its answers. `looks`: suites measured in looks, beside one look and
the rule before. `shape`: what log-probabilities take away of the spread, and what they add of bias; `noise` the same where a
candidate is its baseline with noise. `more`: of benchmarks that stay open, how many the number of samples that the verdict names
decides. Prints Markdown; ten minutes for all, most of them for `looks`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from containers import suites
from containers.evaluate import gate
from containers.evaluate.answer_margins import smooth_differences
from containers.evaluate.declaration import ScoreGate, parse
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from containers.evaluate.looks import Look
from tests.support import look_simulation
from tests.support.gate_simulation import (
    answers,
    compared,
    judged,
    judged_margins,
    sampled,
    simulated,
    with_margins,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.verdict import Decision

_SIZES: Final = (
    (164, 0.10, "HumanEval"),
    (756, 0.10, "MuSR"),
    (1319, 0.05, "GSM-8K"),
    (10042, 0.05, "Hellaswag"),
    (14042, 0.10, "MMLU"),
)
_LOSSES: Final = (0.0, 0.5, 2.0, 4.0)
_RUNS: Final = 4000
_SUITE_RUNS: Final = 1000
_RICH_RUNS: Final = 400  # each question is drawn
_LOOK_RUNS: Final = 120  # and at every look
_CHOICES: Final = ("acc,", "acc_norm,")  # of which the harness keeps the log-probabilities of each choice
_SUITES: Final = ("openllm-v1", "openllm-v2", "multilingual-mmlu")
_SEED: Final = 1


def of_benchmarks() -> Iterator[str]:
    yield "| questions | answers that differ | true loss | pass | inconclusive | refuse |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for samples, differing, name in _SIZES:
        for loss in _LOSSES:
            found = simulated(
                samples=samples,
                differing=differing,
                loss=loss,
                margin=2.0,
                confidence=0.95,
                tests=8,
                runs=_RUNS,
                seed=_SEED,
            )
            shares = " | ".join(f"{100 * found[one]:.1f}%" for one in ("pass", "inconclusive", "refuse"))
            yield f"| {samples:,} ({name}) | {100 * differing:.0f}% | {loss} | {shares} |"


def of_suites() -> Iterator[str]:
    """Passed in percent: by each rule with right and wrong alone, with log-probabilities, and with three sampled answers of each
    generated one, half of whose differences are chance; what the last but one refuses.
    """
    yield "| suite | answers that differ | true loss of each | `each` | `pooled` | log-probabilities | and 3 answers | refused |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in _SUITES:
        declared = parse(suites.read(name), BenchmarkDeclaration)
        for differing in (0.03, 0.05, 0.1):
            for loss in (0.0, 0.3, 2.0):
                every = dict.fromkeys((one.key for one in declared.benchmarks), loss)
                plain = _runs(declared, differing, every, _SUITE_RUNS)
                rich = _runs(declared, differing, every, _RICH_RUNS, log_probabilities=True)
                more = _runs(declared, differing, every, _RICH_RUNS, log_probabilities=True, repeats=3, lasting=0.5)
                passed = (_share(plain, "pass", "each"), *(_share(one, "pass") for one in (plain, rich, more)))
                cells = " | ".join(f"{one:.1f}%" for one in (*passed, _share(rich, "refuse")))
                yield f"| `{name}` | {100 * differing:.0f}% | {loss} | {cells} |"


def of_single() -> Iterator[str]:
    """4 points lost in one benchmark alone; repeats are answers of each model to each of its questions, sampled."""
    yield "| lost 4 points | answered | answers that differ | pass | inconclusive | refuse |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    cases: list[tuple[str, str, str, dict[str, bool | int | float]]] = [
        ("openllm-v1", "gsm8k", "once", {}),
        ("openllm-v1", "gsm8k", "4 times, all chance", {"repeats": 4, "lasting": 0.0}),
        ("openllm-v1", "gsm8k", "8 times, all chance", {"repeats": 8, "lasting": 0.0}),
        ("openllm-v1", "gsm8k", "8 times, half of it chance", {"repeats": 8, "lasting": 0.5}),
        ("openllm-v1", "winogrande", "right or wrong", {}),
        ("openllm-v1", "winogrande", "log-probabilities", {"log_probabilities": True}),
        ("openllm-v2", "gpqa", "log-probabilities", {"log_probabilities": True}),
        ("openllm-v2", "musr", "right or wrong", {}),
        ("openllm-v2", "musr", "log-probabilities", {"log_probabilities": True}),
    ]
    for name, key, how, known in cases:
        declared = parse(suites.read(name), BenchmarkDeclaration)
        title = next(one.title for one in declared.benchmarks if one.key == key)
        for differing in (0.03, 0.05, 0.1):
            runs = _RICH_RUNS if known else _SUITE_RUNS
            found = _runs(declared, differing, {key: 4.0}, runs, only=key, **known)  # type: ignore[arg-type]
            cells = " | ".join(f"{_share(found, one):.1f}%" for one in _ORDER)
            yield f"| {title} | {how} | {100 * differing:.0f}% | {cells} |"


def of_seeds() -> Iterator[str]:
    """The suite `reasoning` with its seeds, half of what differs being chance: its first look alone, and in its looks."""
    declared = parse(suites.read("reasoning"), BenchmarkDeclaration)
    sampled = [one.key for one in declared.benchmarks]
    first = declared.looks[0]
    full = sum(one.samples * (len(one.seeds) if one.at_once else first.answers) for one in declared.benchmarks)
    yield "| answers that differ | true loss of each | first look alone: pass, refuse | in looks: pass, refuse | answers |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for differing in (0.05, 0.1, 0.15):
        for loss in (0.0, 0.3, 1.5, 2.0, 3.0):
            losses = dict.fromkeys(sampled, loss)
            cells = []
            for looks in ((), declared.looks):
                rng = np.random.default_rng(_SEED)
                ended = [
                    look_simulation.run(declared, rng, differing, losses, looks=looks, sampled=sampled, once=first)
                    for _ in range(_LOOK_RUNS)
                ]
                said = Counter(one.decision for one in ended)
                cells.append(f"{100 * said['pass'] / len(ended):.1f}%, {100 * said['refuse'] / len(ended):.1f}%")
            answers = np.mean([one.answers for one in ended]) / full
            yield f"| {100 * differing:.0f}% | {loss} | " + " | ".join(cells) + f" | {answers:.2f} |"


_SAMPLED: Final = {"openllm-v1": ("mmlu", "mmlu-cot", "arc-challenge", "gsm8k"), "openllm-v2": ("ifeval", "math-lvl-5")}
_TWO: Final = (Look(), Look(answers=8))
_THREE: Final = (Look(questions=0.5), Look(), Look(answers=8))


def of_looks() -> Iterator[str]:
    """Generated answers are sampled here, and so much of what differs is chance. Answers: of what measuring all once takes."""
    yield (
        "| suite | true loss | answers that differ | of it chance | before: pass, refuse | one look: pass, refuse "
        "| all, 8 answers: pass, refuse | answers | half, all, 8 answers: pass, refuse | answers |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    v1, v2 = (parse(suites.read(name), BenchmarkDeclaration) for name in _SAMPLED)

    def everywhere(declared: BenchmarkDeclaration, loss: float) -> dict[str, float]:
        return dict.fromkeys((one.key for one in declared.benchmarks), loss)

    cases = [
        *((v2, "none", {}, differing, 0.5) for differing in (0.05, 0.1)),
        (v2, "none", {}, 0.1, 0.0),
        (v2, "1 point everywhere", everywhere(v2, 1.0), 0.1, 0.5),
        (v2, "2 points everywhere", everywhere(v2, 2.0), 0.1, 0.5),
        (v1, "none", {}, 0.1, 0.5),
        *((v1, "4 points of GSM-8K", {"gsm8k": 4.0}, differing, 1.0) for differing in (0.05, 0.1)),
        (v1, "4 points of GSM-8K", {"gsm8k": 4.0}, 0.1, 0.5),
    ]
    for declared, what, losses, differing, chance in cases:
        plain = _runs(declared, differing, losses, _SUITE_RUNS)
        cells = [f"{_share(plain, 'pass', 'each'):.1f}%, {_share(plain, 'refuse', 'each'):.1f}%"]
        full = sum(one.samples for one in declared.benchmarks)
        for looks in ((), _TWO, _THREE):
            rng = np.random.default_rng(_SEED)
            sampled = _SAMPLED[declared.name] if what != "4 points of GSM-8K" else ("gsm8k",)
            ended = [
                look_simulation.run(declared, rng, differing, losses, looks=looks, sampled=sampled, lasting=1 - chance)
                for _ in range(_LOOK_RUNS)
            ]
            said = Counter(one.decision for one in ended)
            cells.append(f"{100 * said['pass'] / len(ended):.1f}%, {100 * said['refuse'] / len(ended):.1f}%")
            if looks:
                cells.append(f"{np.mean([one.answers for one in ended]) / full:.2f}")
        yield (
            f"| `{declared.name}` | {what} | {100 * differing:.0f}% | {100 * chance:.0f}% | " + " | ".join(cells) + " |"
        )


def of_noise() -> Iterator[str]:
    """A thousand questions, 1,000 times: the candidate's margins are the baseline's with normal noise. What is smooth may take the
    shape of a density for a difference; how far, on four shapes.
    """
    shapes: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
        "normal": lambda rng: rng.standard_normal(1000) + 0.5,
        "heavy tails": lambda rng: rng.standard_t(3, 1000) + 0.3,
        "skewed": lambda rng: rng.gamma(2, 1, 1000) - 1.6,
    }
    yield "| margins | answers that differ | plain difference | by log-probabilities | variance left | used |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, draw in shapes.items():
        for size in (0.1, 0.3, 0.5):
            rng = np.random.default_rng(_SEED)
            plain, smooth, differing = [], [], []
            for _ in range(1000):
                margins = draw(rng)
                # Relative to the middle half of the margins, which tails leave alone.
                quarter = float(np.subtract(*np.percentile(margins, [75, 25])))
                moved = margins + rng.standard_normal(1000) * size * quarter / 1.349
                before, after = ((one > 0).astype(float) for one in (margins, moved))
                each = smooth_differences((before, after), (margins, moved))
                differing.append(float((before != after).mean()))
                if each is not None:
                    plain.append(100 * float((after - before).mean()))
                    smooth.append(100 * float(each.mean()))
            left = np.var(smooth) / np.var(plain)
            yield (
                f"| {name} | {100 * np.mean(differing):.0f}% | {np.mean(plain):+.2f} | {np.mean(smooth):+.2f} | "
                f"{100 * left:.0f}% | {len(smooth) / 10:.1f}% |"
            )


def of_shape() -> Iterator[str]:
    """A thousand questions, 2,000 times; margins of a normal distribution and of one with heavy tails."""
    yield "| margins | answers that differ | true loss | expected by log-probabilities | variance left | used |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for heavy in (False, True):
        for differing in (0.03, 0.1):
            for loss in (0.0, 2.0, 4.0):
                rng = np.random.default_rng(_SEED)
                plain, smooth = [], []
                for _ in range(2000):
                    margins = with_margins(rng, 1000, differing, loss, heavy=heavy)
                    before, after = ((one > 0).astype(float) for one in margins)
                    each = smooth_differences((before, after), margins)
                    if each is not None:
                        plain.append(100 * (after - before).mean())
                        smooth.append(100 * each.mean())
                left = np.var(smooth) / np.var(plain)
                yield (
                    f"| {'heavy tails' if heavy else 'normal'} | {100 * differing:.0f}% | {loss} | "
                    f"{-np.mean(smooth) + 0.0:.2f} | {100 * left:.0f}% | {len(smooth) / 20:.1f}% |"
                )


_PARTIAL: Final = ("truthfulqa_mc2",)  # taken for right or wrong here, which has more spread
_ORDER: Final[tuple[Decision, ...]] = ("pass", "inconclusive", "refuse")


def _share(found: Sequence[tuple[Sequence[Comparison], Comparison]], wanted: Decision, rule: str = "pooled") -> float:
    said = [gate.decide(rows, mean, pooled=rule == "pooled").decision for rows, mean in found]
    return 100 * said.count(wanted) / len(said)


def _runs(
    declared: BenchmarkDeclaration,
    differing: float,
    losses: Mapping[str, float],
    runs: int,
    *,
    log_probabilities: bool = False,
    repeats: int = 1,
    lasting: float = 1.0,
    only: str = "",
) -> list[tuple[Sequence[Comparison], Comparison]]:
    """What the gate makes of `runs` simulated runs of a suite: its benchmarks, and their average. Losses in points, by key.

    Benchmarks over one data set with the same number of questions get the very same answers: as dependent as they can be.
    `log_probabilities` stands for those benchmarks that compare choices; `repeats` for all other benchmarks, or
    for the one with the key `only`; those with seeds have their own number.
    """
    rng = np.random.default_rng(_SEED)
    rules = declared.gate
    tests = len(declared.benchmarks) + 1
    drawn: dict[tuple[str, int], Sequence[Comparison]] = {}
    rows = []
    for one in declared.benchmarks:
        key = (one.data_set, one.samples)
        loss = losses.get(one.key, 0.0)
        if key not in drawn and log_probabilities and one.metric.startswith(_CHOICES) and one.task not in _PARTIAL:
            drawn[key] = [
                judged_margins(
                    one.title, with_margins(rng, one.samples, differing, loss), rules.margin, rules.confidence, tests
                )
                for _ in range(runs)
            ]
        elif key not in drawn and (times := len(one.seeds) or (repeats if only in {"", one.key} else 1)) > 1:
            drawn[key] = [
                judged(
                    one.title,
                    sampled(rng, one.samples, differing, loss, times, lasting=lasting),
                    rules.margin,
                    rules.confidence,
                    tests,
                )
                for _ in range(runs)
            ]
        elif key not in drawn:
            drawn[key] = _compared(answers(rng, one.samples, max(differing, loss / 100), loss, runs), tests, rules)
        rows.append(drawn[key])
    averaged = [at for at, one in enumerate(declared.benchmarks) if one.averaged]
    groups = [declared.benchmarks[at].data_set for at in averaged]
    return [
        (found, gate.average("Average", [found[at] for at in averaged], margin=rules.margin_average, groups=groups))
        for found in zip(*rows, strict=True)
    ]


def _compared(drawn: NDArray[np.float64], tests: int, rules: ScoreGate) -> Sequence[Comparison]:
    return compared(drawn, margin=rules.margin, confidence=rules.confidence, tests=tests)


def of_more(samples: int = 756, differing: float = 0.1) -> Iterator[str]:
    """The question is asked for what was seen: the difference and the share of differing answers of the open benchmark."""
    rng = np.random.default_rng(_SEED)
    rules = ScoreGate()
    yield "| true loss | open of 1,000 | decided by the number that is named | by twice that many |"
    yield "| ---: | ---: | ---: | ---: |"
    for loss in (0.0, 0.5, 1.0, 3.0):
        drawn = answers(rng, samples, differing, loss, 1000)
        open_, decided = 0, [0, 0]
        for row, one in zip(drawn, _compared(drawn, 8, rules), strict=True):
            if one.decision != "inconclusive" or one.more >= 1e3:
                continue
            open_ += 1
            shares = row / samples
            for place, factor in enumerate((1, 2)):
                count = int(samples * (1 + factor * (one.more - 1)))
                (later,) = _compared(rng.multinomial(count, shares, 1).astype(float), 8, rules)
                decided[place] += later.decision != "inconclusive"
        yield f"| {loss} | {open_} | {100 * decided[0] / open_:.0f}% | {100 * decided[1] / open_:.0f}% |"


def main(wanted: Sequence[str] | None = None) -> None:
    tables = {
        "benchmarks": of_benchmarks,
        "suites": of_suites,
        "single": of_single,
        "seeds": of_seeds,
        "looks": of_looks,
        "shape": of_shape,
        "noise": of_noise,
        "more": of_more,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*tables, []], help="default: all")
    for name in parser.parse_args(wanted).what or tables:
        print("\n".join(tables[name]()), end="\n\n")


if __name__ == "__main__":
    main()
