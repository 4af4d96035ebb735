"""The report as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from containers.evaluate import plots
from containers.evaluate.fidelity_gate import Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containers.evaluate.judge import Report
    from containers.evaluate.samples import SamplesReport
    from containers.evaluate.suite import Sizes
    from containers.verdict import Score

_TEMPLATES: Final = Path(__file__).with_name("templates")
_TITLES: Final = {
    "kl_mean": "KL divergence, nats",
    "top1_agreement": "Same likeliest token, share",
    "abs_dlogp_mean": "|Δ log-probability|, nats",
    "perplexity_ratio": "Perplexity, candidate / baseline",
    "worst_passage_kl": "KL, worst passage, nats",
}


def render(report: Report) -> str:
    """The page. Everything that a model wrote is escaped."""
    told = report.model_dump(mode="json")
    of_baseline = {check["name"]: check["detail"] for check in told["baseline"]["checks"]}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **told,
            plots={
                "recovery": _recovery(report.verdict.scores),
                "size": _size(report.sizes),
                "fidelity": _fidelity(report),
                "differences": _differences(report),
                "speed": _speed(told["candidate"]["speed"], told["baseline"]["speed"]),
            },
            scores=[_score(one) for one in report.verdict.scores],
            rows=[_row(report, name) for name in report.measures],
            checks=[{**check, "baseline": of_baseline.get(check["name"], "")} for check in told["candidate"]["checks"]],
            answers=[
                {"prompt": prompt, "candidate": answer, "baseline": told["baseline"]["answers"].get(prompt, "")}
                for prompt, answer in told["candidate"]["answers"].items()
            ],
        )
    )


def render_gate(report: SamplesReport) -> str:
    """The page of a suite of benchmarks."""
    verdict = report.verdict
    differences = [
        plots.Interval(
            row.title,
            row.difference,
            row.difference if row.lower is None else row.lower,
            row.difference if row.upper is None else row.upper,
            None if row.margin is None else -row.margin,
            row.decision or "plain",
            _between(f"{row.difference:+.2f}", row.lower, row.upper, "+.2f"),
        )
        for row in verdict.scores
    ]
    return (
        environment()
        .get_template("gate.html.j2")
        .render(
            verdict=verdict.model_dump(mode="json"),
            plots={
                "recovery": _recovery(verdict.scores),
                "size": _size(report.sizes),
                "differences": plots.intervals(
                    differences,
                    title="Differences of scores with intervals and margins",
                    mark=0.0,
                    axis="candidate minus baseline, points",
                ),
            },
            scores=[_score(one) for one in verdict.scores],
            sizes=report.sizes.model_dump(),
            noise=report.noise,
            cut=report.cut,
        )
    )


def _recovery(scores: Sequence[Score]) -> str:
    """Recovery with its interval and, where there is a margin, what of the baseline must be left."""
    rows = []
    for one in scores:
        recovery, bounds = one.recovery, one.recovery_bounds
        if recovery is None or bounds is None:
            continue
        needed = None if one.margin is None else 100 * (1 - one.margin / one.baseline)
        colour = one.decision or "plain"
        rows.append(
            plots.Interval(one.title, recovery, *bounds, needed, colour, _between(f"{recovery:.1f} %", *bounds))
        )
    title, axis = "Recovery by benchmark with intervals", "recovery, percent of the baseline"
    return plots.intervals(rows, title=title, mark=100.0, axis=axis) if rows else ""


def _between(value: str, lower: float | None, upper: float | None, form: str = ".1f") -> str:
    """A value, followed by its bounds if it has any."""
    return value if lower is None or upper is None else f"{value} ({lower:{form}} to {upper:{form}})"


def _score(one: Score) -> dict[str, str]:
    """One line of the accuracy table, as text."""
    recovery, bounds = one.recovery, one.recovery_bounds
    said = "N/A" if recovery is None else f"{recovery:.1f} %"
    return {
        "category": one.category,
        "title": one.title,
        "samples": f"{one.samples:,}" if one.samples else "",
        "baseline": f"{one.baseline:.2f}",
        "candidate": f"{one.candidate:.2f}",
        "recovery": said if bounds is None else _between(said, *bounds),
        "difference": _between(f"{one.difference:+.2f}", one.lower, one.upper, "+.2f")
        + (", by log-probabilities" if one.log_probabilities else ""),
        "margin": "" if one.margin is None else f"{one.margin:g}",
        "decision": (one.decision or "") + (", a gain beyond noise" if one.gain_beyond_noise else ""),
    }


def _size(sizes: Sizes) -> str:
    largest = max(sizes.baseline, sizes.candidate)
    if not sizes.baseline or not sizes.candidate:
        return ""
    factor, unit = next((f, u) for f, u in ((1e9, "GB"), (1e6, "MB"), (1.0, "B")) if largest >= f)
    bar = plots.Bar("Files of the checkpoint", sizes.baseline / factor, sizes.candidate / factor, unit)
    return plots.bars([bar], title="Size of baseline and candidate")


def environment() -> Environment:
    """Where the pages' templates are; what is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _row(report: Report, name: str) -> dict[str, str]:
    found = report.measures[name]
    limit = report.limits.get(name, {})
    return {
        "name": _TITLES[name],
        "value": f"{found.value:.4g}",
        "lower": "" if found.lower is None else f"{found.lower:.4g}",
        "upper": "" if found.upper is None else f"{found.upper:.4g}",
        "limit": "; ".join(f"{side.replace('_', ' ')} {value:g}" for side, value in limit.items()),
    }


def _fidelity(report: Report) -> str:
    rows = []
    for name, found in report.measures.items():
        if found.lower is None or found.upper is None:
            continue
        limit = Limit(**report.limits[name]) if name in report.limits else None
        colour = "pass" if limit is None else limit.decide(found)
        bound = None if limit is None else limit.bound
        text = f"{found.value:.4g}" + ("" if bound is None else f", limit {bound:g}")
        rows.append(plots.Interval(_TITLES[name], found.value, found.lower, found.upper, bound, colour, text))
    return plots.intervals(rows, title="Fidelity measures with intervals and limits")


def _differences(report: Report) -> str:
    told = report.dlogp_histogram
    if not told:
        return ""
    return plots.histogram(
        told["edges"],
        told["counts"],
        title="Distribution of log-probability differences",
        axis="log-probability of the text's own token, candidate minus baseline, nats",
        counted="tokens",
    )


def _speed(candidate: dict[str, Any], baseline: dict[str, Any]) -> str:
    names = {
        "first_token": ("Time to first token", "s"),
        "alone": ("Output, one request at a time", "tokens/s"),
        "concurrent": ("Output, requests together", "tokens/s"),
        "prefill": ("Prompt with log-probabilities", "tokens/s"),
    }
    rows = [plots.Bar(title, baseline[key], candidate[key], unit) for key, (title, unit) in names.items()]
    return plots.bars(rows, title="Speed of baseline and candidate")
