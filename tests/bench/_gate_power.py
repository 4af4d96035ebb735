"""How often the gate decides what, by simulation: the tables of docs/measurements/gate.md.

    python -m tests.bench._gate_power [benchmarks|suites|single|level|seeds|looks|shape|noise|more]

`benchmarks`: one benchmark by its size, the share of answers that differ, and the true loss. `suites`: whole suites with
the sizes of the declared ones, decided by each rule of the gate and by what is known of an answer. `single`: the same with a
loss in one benchmark alone. `level`: one benchmark that loses exactly its margin, at the levels that a suite and its looks use.
`seeds`: the suite that samples its answers. `looks`: suites measured in looks, beside one look and
the rule before. `shape`: what log-probabilities take away of the spread, and what they add of bias; `noise` the same where a
candidate is its baseline with noise. `more`: of benchmarks that stay open, how many the number of samples that the verdict names
decides. Prints Markdown; a quarter of an hour on one core for all.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

import numpy as np

from containers import suites
from containers.evaluate.answer_margins import smooth_differences
from containers.evaluate.declaration import ScoreGate, parse
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from containers.evaluate.looks import Look
from containers.evaluate.paired import Moments
from tests.support import look_simulation
from tests.support.gate_simulation import answers, compared, simulated, with_margins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.evaluate.harness.benchmark import Benchmark

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
_LOOK_RUNS: Final = 2000  # standard error at most 1.1 points, 0.5 at 5 %
_LEVEL_RUNS: Final = 5000
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
        declared = _declared(name)
        for differing in (0.03, 0.05, 0.1):
            for loss in (0.0, 0.3, 2.0):
                losses = dict.fromkeys((one.key for one in declared.benchmarks), loss)
                plain = _counted(declared, differing, losses)
                passed = [_once(one, plain)[0] for one in (_each(declared), declared)]
                rich = _once(declared, _drawn(declared, differing, losses))
                sampled = [one.key for one in declared.benchmarks if not one.metric.startswith(look_simulation.CHOICES)]
                more = _once(declared, _drawn(declared, differing, losses, answers=3, sampled=sampled))
                cells = " | ".join(f"{one:.1f}%" for one in (*passed, rich[0], more[0], rich[1]))
                yield f"| `{name}` | {100 * differing:.0f}% | {loss} | {cells} |"


def of_single() -> Iterator[str]:
    """Points lost in one benchmark alone; repeats are answers of each model to each of its questions, sampled."""
    yield "| lost | points | answered | answers that differ | pass | inconclusive | refuse |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: |"
    cases: list[tuple[str, str, float, str, int, float]] = [
        ("openllm-v1", "gsm8k", 4.0, "once", 0, 1.0),
        ("openllm-v1", "gsm8k", 4.0, "4 times, all chance", 4, 0.0),
        ("openllm-v1", "gsm8k", 4.0, "8 times, all chance", 8, 0.0),
        *(("openllm-v1", "gsm8k", 4.0, f"{times} times, half of it chance", times, 0.5) for times in (4, 8, 16, 32)),
        ("openllm-v1", "hellaswag", 3.0, "right or wrong", 0, 1.0),
        ("openllm-v1", "hellaswag", 3.0, "log-probabilities", 1, 1.0),
        ("openllm-v1", "winogrande", 4.0, "right or wrong", 0, 1.0),
        ("openllm-v1", "winogrande", 4.0, "log-probabilities", 1, 1.0),
        ("openllm-v2", "gpqa", 4.0, "log-probabilities", 1, 1.0),
        ("openllm-v2", "musr", 4.0, "right or wrong", 0, 1.0),
        ("openllm-v2", "musr", 4.0, "log-probabilities", 1, 1.0),
    ]
    for name, key, loss, how, times, lasting in cases:
        declared = _declared(name)
        title = next(one.title for one in declared.benchmarks if one.key == key)
        for differing in (0.03, 0.05, 0.1):
            # The others are counted by right or wrong: they lose nothing, and hardly ever decide.
            found = _counted(declared, differing, {key: loss})
            if times:
                alone = declared.model_copy(
                    update={"benchmarks": tuple(one for one in declared.benchmarks if one.key == key)}
                )
                mine = _drawn(
                    alone, differing, {key: loss}, answers=times, sampled=[key], lasting=lasting, runs=found.runs
                )
                found = found._replace(seen={**found.seen, (key, _ALL): mine.seen[key, Look(answers=times)]})
            passed, refused = _once(declared, found)
            yield (
                f"| {title} | {loss:g} | {how} | {100 * differing:.0f}% | {passed:.1f}% | {100 - passed - refused:.1f}% | "
                f"{refused:.1f}% |"
            )


def of_level() -> Iterator[str]:
    """One benchmark that loses exactly 2 points, its margin. Passed and refused in percent of 5,000 runs."""
    yield "| questions | answered | answers that differ | at 5%: pass, refuse | at 0.94%: pass, refuse | at 0.19%: pass, refuse |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: |"
    (one,) = [one for one in _declared("openllm-v1").benchmarks if one.key == "winogrande"]
    (other,) = [one for one in _declared("openllm-v1").benchmarks if one.key == "gsm8k"]
    declared = _declared("openllm-v1")
    cases: list[tuple[Benchmark, int, str, int, float, float]] = [
        *((one, count, "log-probabilities", 1, share, 1.0) for count, share in ((756, 0.03), (756, 0.1), (1267, 0.05))),
        *((other, 1319, "once", 1, share, 1.0) for share in (0.05, 0.1)),
        *((other, 1319, "8 times", 8, share, 0.5) for share in (0.05, 0.1)),
        *((other, 1319, "32 times", 32, share, 0.5) for share in (0.05, 0.1)),
        (other, 1319, "8 times, lost questions alone", 8, 0.02, 1.0),
        *((other, count, "8 times", 8, share, 0.5) for count in (541, 198) for share in (0.05, 0.1)),
        (other, 30, "8 times", 8, 0.2, 0.5),
    ]
    for benchmark, count, how, times, differing, lasting in cases:
        alone = declared.model_copy(update={"benchmarks": (benchmark.model_copy(update={"samples": count}),)})
        look = Look(answers=times)
        drawn = look_simulation.draw(
            alone,
            np.random.default_rng(_SEED),
            differing,
            {benchmark.key: 2.0},
            [look],
            _LEVEL_RUNS,
            sampled=[benchmark.key],
            lasting=lasting,
        )
        cells = []
        for level in (0.05, 0.0094, 0.0019):
            low, high = look_simulation.intervals(drawn.seen[benchmark.key, look], 1 - level, 1 - level)
            cells.append(f"{100 * (low > -0.02).mean():.2f}, {100 * (high < -0.02).mean():.2f}")
        yield f"| {count:,} | {how} | {100 * differing:.0f}% | " + " | ".join(cells) + " |"


def of_seeds() -> Iterator[str]:
    """The suite `reasoning` with its seeds, half of what differs being chance: its first look alone, and in its looks."""
    declared = _declared("reasoning")
    keys = [one.key for one in declared.benchmarks]
    yield "| answers that differ | true loss of each | first look alone: pass, refuse | in looks: pass, refuse | answers |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for differing in (0.05, 0.1, 0.15):
        for loss in (0.0, 0.3, 1.5, 2.0, 3.0):
            drawn = look_simulation.draw(
                declared,
                np.random.default_rng(_SEED),
                differing,
                dict.fromkeys(keys, loss),
                declared.looks,
                _LOOK_RUNS,
                sampled=keys,
            )
            alone = _once(declared, drawn, declared.looks[0])
            ended = look_simulation.judge(declared, drawn, declared.looks)
            cells = " | ".join(f"{one:.1f}%, {other:.1f}%" for one, other in (alone, ended.shares()))
            answers = np.mean(ended.answers) / drawn.answers[declared.looks[0]]
            yield f"| {100 * differing:.0f}% | {loss} | {cells} | {answers:.2f} |"


_SAMPLED: Final = {"openllm-v1": ("mmlu", "mmlu-cot", "arc-challenge", "gsm8k"), "openllm-v2": ("ifeval", "math-lvl-5")}
_ALL: Final = Look()
_SEQUENCES: Final = {
    "one": (_ALL,),
    "all, 8 answers": (_ALL, Look(answers=8)),
    "half, all, 8": (Look(questions=0.5), _ALL, Look(answers=8)),
    "all, 8, 32": (_ALL, Look(answers=8), Look(answers=32)),
    "half, all, 8, 32": (Look(questions=0.5), _ALL, Look(answers=8), Look(answers=32)),
}


def of_looks() -> Iterator[str]:
    """Generated answers are sampled here, and so much of what differs is chance. Answers: of what measuring all once takes."""
    yield "| suite | true loss | answers that differ | of it chance | looks | pass | refuse | answers |"
    yield "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |"
    v1, v2 = (_declared(name) for name in _SAMPLED)

    def everywhere(declared: BenchmarkDeclaration, loss: float) -> dict[str, float]:
        return dict.fromkeys((one.key for one in declared.benchmarks), loss)

    cases = [
        (v2, "none", {}, 0.1, 0.5),
        (v2, "none", {}, 0.1, 0.0),
        (v2, "1 point everywhere", everywhere(v2, 1.0), 0.1, 0.5),
        (v2, "2 points everywhere", everywhere(v2, 2.0), 0.1, 0.5),
        (v1, "none", {}, 0.1, 0.5),
        (v1, "1 point everywhere", everywhere(v1, 1.0), 0.1, 0.5),
        *((v1, "4 points of GSM-8K", {"gsm8k": 4.0}, differing, 0.5) for differing in (0.05, 0.1)),
        (v1, "4 points of GSM-8K", {"gsm8k": 4.0}, 0.1, 1.0),
    ]
    looks = [*{one: None for sequence in _SEQUENCES.values() for one in sequence}]
    for declared, what, losses, differing, chance in cases:
        drawn = look_simulation.draw(
            declared,
            np.random.default_rng(_SEED),
            differing,
            losses,
            looks,
            _LOOK_RUNS,
            sampled=_SAMPLED[declared.name] if "GSM-8K" not in what else ("gsm8k",),
            lasting=1 - chance,
        )
        for name, sequence in _SEQUENCES.items():
            ended = look_simulation.judge(declared, drawn, sequence, in_looks=len(sequence) > 1)
            passed, refused = ended.shares()
            yield (
                f"| `{declared.name}` | {what} | {100 * differing:.0f}% | {100 * chance:.0f}% | {name} | {passed:.1f}% | "
                f"{refused:.1f}% | {np.mean(ended.answers) / drawn.answers[_ALL]:.2f} |"
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


def _declared(name: str) -> BenchmarkDeclaration:
    return parse(suites.read(name), BenchmarkDeclaration)


def _each(declared: BenchmarkDeclaration) -> BenchmarkDeclaration:
    return declared.model_copy(update={"gate": declared.gate.model_copy(update={"rule": "each"})})


def _once(declared: BenchmarkDeclaration, drawn: look_simulation.Drawn, look: Look = Look()) -> tuple[float, float]:  # noqa: B008
    """Passed and refused in percent, measured at once."""
    return look_simulation.judge(declared, drawn, [look], in_looks=False).shares()


def _counted(declared: BenchmarkDeclaration, differing: float, losses: Mapping[str, float]) -> look_simulation.Drawn:
    """Runs of a suite whose every answer is right or wrong and given once: only counts are drawn. Benchmarks over one data set with
    the same number of questions get the very same answers: as dependent as they can be.
    """
    rng = np.random.default_rng(_SEED)
    same: dict[tuple[str, int], look_simulation.Seen] = {}
    seen = {}
    for one in declared.benchmarks:
        key, loss = (one.data_set, one.samples), losses.get(one.key, 0.0)
        if key not in same:
            lost, won, alike = answers(rng, one.samples, max(differing, loss / 100), loss, _SUITE_RUNS).T
            samples = lost + won + alike
            moments = Moments((won - lost) / samples, (won + lost) / samples, (won - lost) / samples)
            yes, no = np.ones(_SUITE_RUNS, bool), np.zeros(_SUITE_RUNS, bool)
            same[key] = look_simulation.Seen(samples, moments, lost, won, yes, moments, no, yes)
        seen[one.key, Look()] = same[key]
    return look_simulation.Drawn(seen, {Look(): sum(one.samples for one in declared.benchmarks)}, _SUITE_RUNS)


def _drawn(
    declared: BenchmarkDeclaration,
    differing: float,
    losses: Mapping[str, float],
    *,
    answers: int = 1,
    sampled: Sequence[str] = (),
    lasting: float = 0.5,
    runs: int = _RICH_RUNS,
) -> look_simulation.Drawn:
    """The same question by question, with log-probabilities; of those in `sampled` several answers. Kept as the look of all questions."""
    look, rng = Look(answers=answers), np.random.default_rng(_SEED)
    found = look_simulation.draw(declared, rng, differing, losses, [look], runs, sampled=sampled, lasting=lasting)
    return found._replace(
        seen={**found.seen, **{(key, Look()): one for (key, _), one in found.seen.items()}},
        answers={Look(): found.answers[look]},
    )


def _compared(drawn: NDArray[np.float64], tests: float, rules: ScoreGate) -> Sequence[Comparison]:
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
        "level": of_level,
        "seeds": of_seeds,
        "looks": of_looks,
        "shape": of_shape,
        "noise": of_noise,
        "more": of_more,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*tables, []], help="default: all")
    for name in parser.parse_args(wanted).what or tables:
        for line in tables[name]():
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
