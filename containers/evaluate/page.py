"""The report as one HTML page that needs nothing else: for a browser, an archive and a mail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from containers.evaluate import plots

if TYPE_CHECKING:
    from containers.evaluate.gate import GateReport
    from containers.evaluate.judge import Report
    from containers.verdict import Verdict

_TEMPLATES: Final = Path(__file__).with_name("templates")
_TITLES: Final = {
    "kl_mean": "KL divergence, nats",
    "top1_agreement": "Same likeliest token",
    "abs_dlogp_mean": "|Δ log-probability|, nats",
    "perplexity_ratio": "Perplexity ratio",
    "worst_passage_kl": "KL, worst passage, nats",
}


def render(report: Report) -> str:
    """The page. Everything that a model wrote is escaped: it is not ours."""
    told = report.model_dump(mode="json")
    of_baseline = {check["name"]: check["detail"] for check in told["baseline"]["checks"]}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **told,
            plots={
                "fidelity": _fidelity(report),
                "differences": _differences(report),
                "speed": _speed(told["candidate"]["speed"], told["baseline"]["speed"]),
            },
            rows=[_row(report, name) for name in report.measures],
            checks=[{**check, "baseline": of_baseline.get(check["name"], "")} for check in told["candidate"]["checks"]],
            answers=[
                {"prompt": prompt, "candidate": answer, "baseline": told["baseline"]["answers"].get(prompt, "")}
                for prompt, answer in told["candidate"]["answers"].items()
            ],
        )
    )


def render_gate(verdict: Verdict, report: GateReport, *, recovery_needs: float) -> str:
    """The page of a suite of benchmarks; a recovery is N/A below `recovery_needs` points of the baseline."""
    rows = [*report.comparisons, *([report.average] if report.average is not None else [])]
    plot = plots.intervals(
        [
            plots.Interval(
                row.title, row.difference, row.lower, row.upper, -row.margin, row.decision, f"{row.difference:+.2f}"
            )
            for row in rows
        ],
        title="Differences of scores with intervals and margins",
    )
    return (
        _environment()
        .get_template("gate.html.j2")
        .render(
            verdict=verdict.model_dump(mode="json"),
            plot=plot,
            rows=[
                {**row.model_dump(), "recovery": row.recovery if row.baseline >= recovery_needs else None}
                for row in rows
            ],
        )
    )


def _environment() -> Environment:
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
        limit = report.limits.get(name, {})
        most, least = limit.get("at_most"), limit.get("at_least")
        good = (most is None or found.upper <= most) and (least is None or found.lower >= least)
        bad = (most is not None and found.lower > most) or (least is not None and found.upper < least)
        colour = "refuse" if bad else "pass" if good else "inconclusive"
        bound = most if most is not None else least
        text = f"{found.value:.4g}"
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
    )


def _speed(candidate: dict[str, Any], baseline: dict[str, Any]) -> str:
    names = {
        "first_token": ("Time to first token", "s"),
        "alone": ("Tokens a second, alone", ""),
        "concurrent": ("Tokens a second, concurrent", ""),
        "prefill": ("Prompt tokens a second", ""),
    }
    rows = [plots.Bar(title, baseline[key], candidate[key], unit) for key, (title, unit) in names.items()]
    return plots.bars(rows, title="Speed of baseline and candidate")
