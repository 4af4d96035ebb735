"""How often the gate decides what, by simulation: the tables of docs/measurements/evaluation.md.

    python -m tests.bench._gate_power [benchmarks|suites|more]

`benchmarks`: one benchmark by its size, the share of answers that differ, and the true loss. `suites`: whole suites with
the sizes of the declared ones, decided as the gate decides them. `more`: of benchmarks that stay open, how many the
number of samples that the verdict names decides. Prints Markdown; half a minute for all.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

import numpy as np

from containers import suites
from containers.evaluate import gate
from containers.evaluate.declaration import ScoreGate, parse
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from tests.support.gate_simulation import answers, compared, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    yield "| suite | answers that differ | true loss of each | pass | inconclusive | refuse |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name in _SUITES:
        declared = parse(suites.read(name), BenchmarkDeclaration)
        for differing in (0.03, 0.1):
            for loss in (0.0, 0.3, 2.0):
                said = _decisions(declared, differing, loss)
                shares = " | ".join(f"{100 * said.count(one) / len(said):.1f}%" for one in _ORDER)
                yield f"| `{name}` | {100 * differing:.0f}% | {loss} | {shares} |"


_ORDER: Final[tuple[Decision, ...]] = ("pass", "inconclusive", "refuse")


def _decisions(declared: BenchmarkDeclaration, differing: float, loss: float) -> list[Decision]:
    """What the gate says of `_SUITE_RUNS` simulated runs of a suite.

    Benchmarks over one data set with the same number of questions get the very same answers: as dependent as they can be.
    """
    rng = np.random.default_rng(_SEED)
    drawn: dict[tuple[str, int], NDArray[np.float64]] = {}
    rows = []
    for one in declared.benchmarks:
        key = (one.data_set, one.samples)
        if key not in drawn:
            drawn[key] = answers(rng, one.samples, differing, loss, _SUITE_RUNS)
        rows.append(_compared(drawn[key], len(declared.benchmarks) + 1, declared.gate))
    said = []
    groups = [one.data_set for one in declared.benchmarks]
    for found in zip(*rows, strict=True):
        mean = gate.average("Average", found, margin=declared.gate.margin_average, groups=groups)
        said.append(gate.decide(found, mean).decision)
    return said


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
    tables = {"benchmarks": of_benchmarks, "suites": of_suites, "more": of_more}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*tables, []], help="default: all")
    for name in parser.parse_args(wanted).what or tables:
        print("\n".join(tables[name]()), end="\n\n")


if __name__ == "__main__":
    main()
