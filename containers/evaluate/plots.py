"""Small plots as self-contained SVG text, without scripts, fonts or external files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 840
_LABEL: Final = 250  # pixels for the names on the left
_TEXT: Final = 200  # and for the numbers on the right
_ROW: Final = 30
_COLOURS: Final = {
    "pass": "#2e7d32",
    "refuse": "#c62828",
    "inconclusive": "#b26a00",
    "plain": "#3f6fb5",
    "base": "#9aa5b1",
    "grid": "#e6eaef",
}


@dataclass(frozen=True)
class Interval:
    """One row: a value with its bounds, and the limit that it must keep (on the good side of which it passes)."""

    name: str
    value: float
    lower: float
    upper: float
    limit: float | None
    colour: str = "plain"
    text: str = ""


@dataclass(frozen=True)
class Bar:
    """One pair of bars: the baseline's and the candidate's value."""

    name: str
    baseline: float
    candidate: float
    unit: str


@dataclass(frozen=True)
class Curve:
    """One line: a value with its bounds at each place, from left to right. A `dashed` one is the tail of another."""

    name: str
    values: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]
    colour: str = "plain"
    dashed: bool = False


def intervals(rows: Sequence[Interval], *, title: str, mark: float | None = None, axis: str = "") -> str:
    """Values with their bounds, one row each, every row on a scale of its own that ends a little beyond what it shows.

    With a `mark` all rows share one scale, labelled with numbers and `axis`, and a vertical line marks its value.
    """
    height = _ROW * len(rows) + (46 if mark is not None else 10)
    parts = []
    everything = [one for row in rows for one in _shown(row)]
    for number, row in enumerate(rows):
        y = number * _ROW + 20
        shown = _shown(row) if mark is None else [*everything, mark]
        low, high = min(shown), max(shown)
        pad = (high - low) * 0.08 or 1.0
        low, high = low - pad, high + pad

        def x(value: float, low: float = low, high: float = high) -> float:
            return _LABEL + (value - low) / (high - low) * (_WIDTH - _LABEL - _TEXT - 12)

        colour = _COLOURS[row.colour]
        if mark is not None:
            for tick in ticks(low, high):
                parts.append(_line((x(tick), y - _ROW / 2), (x(tick), y + _ROW / 2), _COLOURS["grid"], 1))
                if number == len(rows) - 1:
                    parts.append(_text(x(tick), y + _ROW / 2 + 14, f"{tick:g}", anchor="middle"))
            parts.append(_line((x(mark), y - _ROW / 2), (x(mark), y + _ROW / 2), _COLOURS["base"], 1.5))
        parts += [
            _text(0, y + 4, row.name),
            _line((x(row.lower), y), (x(row.upper), y), colour, 3),
            f'<circle cx="{x(row.value):.1f}" cy="{y}" r="4.5" fill="{colour}"/>',
            _text(_WIDTH - _TEXT, y + 4, row.text),
        ]
        if row.limit is not None:
            parts.append(_line((x(row.limit), y - 10), (x(row.limit), y + 10), "#333", 1.5, dash="3 3"))
    if mark is not None and rows:
        parts.append(_text(_LABEL + (_WIDTH - _LABEL - _TEXT) / 2, height - 4, axis, anchor="middle"))
    return _svg(parts, height, title)


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between the two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(one for one in (1, 2, 5, 10) if one * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _shown(row: Interval) -> list[float]:
    return [row.value, row.lower, row.upper, *([] if row.limit is None else [row.limit])]


def bars(rows: Sequence[Bar], *, title: str) -> str:
    """Baseline above candidate, each pair on its own scale from zero."""
    parts = []
    for place, row in enumerate(rows):
        y = place * 44 + 14
        largest = max(row.baseline, row.candidate) or 1.0
        reach = _WIDTH - _LABEL - 220
        parts.append(_text(0, y + 14, row.name))
        for offset, value, colour in ((0, row.baseline, "base"), (16, row.candidate, "plain")):
            width = max(value / largest * reach, 1.0)
            parts.append(
                f'<rect x="{_LABEL}" y="{y + offset}" width="{width:.1f}" height="13" fill="{_COLOURS[colour]}"/>'
            )
            number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
            said = f"{number} {row.unit}, {'baseline' if colour == 'base' else 'candidate'}"
            parts.append(_text(_LABEL + width + 6, y + offset + 11, said))
    return _svg(parts, 44 * len(rows) + 10, title)


def lines(rows: Sequence[Curve], places: Sequence[str], *, title: str, axis: str, unit: str) -> str:
    """Lines over places of equal distance, with bounds as vertical bars, on one logarithmic scale; all values are above zero."""
    height, left, right, top, bottom = 300, 70, _WIDTH - 200, 24, 240
    shown = [value for row in rows for value in (*row.lower, *row.upper, *row.values)]
    low, high = math.log10(min(shown)) - 0.04, math.log10(max(shown)) + 0.04

    def y(value: float) -> float:
        return bottom - (math.log10(value) - low) / (high - low) * (bottom - top)

    def x(place: int, offset: float = 0.0) -> float:
        step = (right - left) / max(len(places), 1)
        return left + step * (place + 0.5) + offset

    parts = [_text(0, 12, unit)]
    for tick in log_ticks(10**low, 10**high):
        parts.append(_line((left, y(tick)), (right, y(tick)), _COLOURS["grid"], 1))
        parts.append(_text(left - 6, y(tick) + 4, f"{tick:,g}", anchor="end"))
    for number, place in enumerate(places):
        parts.append(_text(x(number), bottom + 18, place, anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 40, axis, anchor="middle"))
    for number, row in enumerate(rows):
        colour, dash = _COLOURS[row.colour], "5 4" if row.dashed else "none"
        aside = 4.0 * (number - (len(rows) - 1) / 2)  # so that bars at one place do not hide each other
        points = [(x(place, aside), y(value)) for place, value in enumerate(row.values)]
        for start, end in pairwise(points):
            parts.append(_line(start, end, colour, 2, dash))
        for (across, up), least, most in zip(points, row.lower, row.upper, strict=True):
            parts.append(_line((across, y(least)), (across, y(most)), colour, 1.5))
            parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}"/>')
        legend = top + 10 + 22 * number
        parts.append(_line((right + 16, legend), (right + 46, legend), colour, 2, dash))
        parts.append(_text(right + 54, legend + 4, row.name))
    return _svg(parts, height, title)


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers of the form 1, 2 or 5 times a power of ten between the two; other round ones where that gives fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    return found if len(found) > 2 else ticks(low, high)


def histogram(edges: Sequence[float], counts: Sequence[float], *, title: str, axis: str, counted: str) -> str:
    """Counts of what is `counted` between edges; what lies beyond the outermost edges is in the outermost bars."""
    largest = max(counts, default=1.0) or 1.0
    height, left, top, bottom = 200, 60, 16, 155
    step = (_WIDTH - left - 20) / max(len(counts), 1)
    parts = []
    for tick in ticks(0, largest):
        y = bottom - tick / largest * (bottom - top)
        parts.append(_line((left, y), (_WIDTH - 20, y), _COLOURS["grid"], 1))
        parts.append(_text(left - 6, y + 4, f"{tick:g}", anchor="end"))
    for number, count in enumerate(counts):
        tall = count / largest * (bottom - top)
        parts.append(
            f'<rect x="{left + number * step:.1f}" y="{bottom - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" '
            f'fill="{_COLOURS["plain"]}"/>'
        )
    for part in range(5):
        at = edges[0] + (edges[-1] - edges[0]) * part / 4
        parts.append(_text(left + step * len(counts) * part / 4, bottom + 15, f"{at:g}", anchor="middle"))
    parts.append(_text((_WIDTH + left - 20) / 2, bottom + 33, axis, anchor="middle"))
    parts.append(_text(0, 12, counted))
    return _svg(parts, height, title)


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float, dash: str = "none") -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-dasharray="{dash}"/>'
    )


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n<title>{escape(title)}</title>\n{body}\n</svg>'
    )
