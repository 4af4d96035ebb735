"""The names of what is measured under load, as serving benchmarks call them; latencies in milliseconds.

ttft: time to first token. tpot: time per output token after the first, the mean of an answer. itl: time between two tokens of an
answer (inter-token latency), as the client reads them: near zero for tokens that arrive together. e2e: until the whole answer is there.
"""

from __future__ import annotations

from typing import Final

PERCENTILES: Final = (50, 90, 99)
KINDS: Final = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Time between tokens",
    "e2e": "Whole answer",
}
LATENCIES: Final = tuple(f"{kind}_p{percentile}" for kind in KINDS for percentile in PERCENTILES)
THROUGHPUTS: Final = ("requests_per_second", "output_tokens_per_second")
MEASURES: Final = (*LATENCIES, *THROUGHPUTS)


def title(measure: str) -> str:
    """The measure for people: "Time to first token, p50, ms"."""
    if measure in THROUGHPUTS:
        return "Requests/s" if measure == THROUGHPUTS[0] else "Output tokens/s"
    kind, _, percentile = measure.partition("_")
    return f"{KINDS[kind]}, {percentile}, ms"


def shown(value: float) -> str:
    """A number for people, to four digits: 0.866, 64.89, 17,740."""
    return f"{float(f'{value:.4g}'):,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
