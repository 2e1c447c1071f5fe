"""A plot of latency over time as an SVG file: one dot per ping, lost ones on top (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 800, 300, 50
"""Of the picture, pixels."""

FONT = 'font-family="sans-serif" font-size="11"'

LOWEST, HIGHEST = 1e-4, 10.0
"""Seconds at the lower and upper end of the logarithmic axis."""

Ping = tuple[float, float | None]
"""When it was sent, seconds after the failure, and how long its answer took; None if there was none."""


def plot(title: str, pings: Sequence[Ping]) -> str:
    """Return the picture."""
    first = min((sent for sent, _ in pings), default=0.0)
    last = max((sent for sent, _ in pings), default=1.0)
    span = max(last - first, 1e-9)

    def across(sent: float) -> float:
        return MARGIN + (sent - first) / span * (WIDTH - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" {FONT}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for exponent in range(-4, 2):
        height = _height(10.0**exponent)
        parts.append(
            f'<path d="M{MARGIN} {height:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>'
            f'<text x="4" y="{height + 4:.1f}">{10.0**exponent:g} s</text>'
        )
    seconds = range(math.ceil(first), math.floor(last) + 1)
    parts += [f'<text x="{across(second):.1f}" y="{HEIGHT - 20}">{second}</text>' for second in seconds]
    parts.append(f'<path d="M{across(0.0):.1f} {MARGIN}V{HEIGHT - MARGIN}" stroke="#888"/>')
    for sent, taken in pings:
        lost = taken is None
        height = _height(HIGHEST if taken is None else taken)
        colour = "#d00" if lost else "#06c"
        parts.append(f'<circle cx="{across(sent):.1f}" cy="{height:.1f}" r="1.5" fill="{colour}"/>')
    parts.append(
        f'<text x="{WIDTH - 250}" y="{HEIGHT - 4}">seconds after the failure; red: lost</text></svg>'
    )
    return "\n".join(parts)


def _height(seconds: float) -> float:
    bounded = min(max(seconds, LOWEST), HIGHEST)
    share = math.log(bounded / LOWEST) / math.log(HIGHEST / LOWEST)
    return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
