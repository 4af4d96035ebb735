"""Small curves over ships as one SVG file: panels with several lines each, without scripts and fonts."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from containers.evaluate.plots import ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH: Final = 840
_HEIGHT: Final = 210  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 170, 26, 30
_COLOURS: Final = ("#3f6fb5", "#c62828", "#2e7d32", "#b26a00", "#6a4fa0", "#00838f", "#795548")


@dataclass(frozen=True)
class Panel:
    """Lines by their names, as points (ships, value); the scale begins at zero."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    dots: bool = False


def draw(panels: Sequence[Panel], title: str) -> str:
    body = "\n".join(_panel(panel, number * _HEIGHT) for number, panel in enumerate(panels))
    height = _HEIGHT * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11">\n<title>{escape(title)}</title>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, top: float) -> str:
    points = [point for line in panel.lines.values() for point in line]
    most = max((x for x, _ in points), default=1) or 1
    largest = max((y for _, y in points), default=1) or 1
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / most * width, top + _TOP + (1 - y / largest) * height

    parts = [f'<text x="{_LEFT}" y="{top + 16}" font-size="12" font-weight="bold">{escape(panel.title)}</text>']
    for tick in ticks(0, largest):
        x, y = place(0, tick)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + width}" y2="{y:.1f}" stroke="#e6eaef"/>')
        parts.append(f'<text x="{x - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(0, most):
        x, y = place(tick, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{tick:g}</text>')
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(x, y) for x, y in line]
        if panel.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in placed]
        else:
            drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{_LEFT + width + 8}" y="{top + _TOP + 10 + number * 15}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join(parts)
