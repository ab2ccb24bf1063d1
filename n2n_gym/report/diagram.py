"""Teacher and student side by side, a bar a layer, as SVG."""

from __future__ import annotations

from html import escape
from typing import Final

from n2n_gym.architecture import Architecture
from n2n_gym.render import LETTERS, Bar, bars, shorten

ROW: Final = 22  # the lengths are of SVG's user units
BAR: Final = 13  # the height of a bar
NAME: Final = 190
WIDEST: Final = 220
GAP: Final = 24
STATE: Final = 150
HEAD: Final = 28


def draw(teacher: Architecture, student: Architecture) -> str:
    """The teacher's bars on the left, what is left of them on the right.

    Colours are classes of the page's style: ``teacher``, ``kept``, ``shrunk``,
    ``removed``.
    """
    shown = bars(teacher, teacher, student, None)
    widest = max(bar.old for bar in shown)
    left, right = NAME, NAME + WIDEST + GAP
    width, height = right + WIDEST + STATE, HEAD + len(shown) * ROW + 4
    rows = [
        _row(bar, HEAD + i * ROW, left, right, WIDEST / widest)
        for i, bar in enumerate(shown)
    ]
    return (
        f'<svg class="network" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(describe(shown))}">'
        f'<text class="head" x="{left}" y="16">teacher</text>'
        f'<text class="head" x="{right}" y="16">student</text>'
        f"{''.join(rows)}</svg>"
    )


def describe(shown: list[Bar]) -> str:
    """What the diagram shows, in words."""
    removed = sum(not bar.new for bar in shown)
    shrunk = sum(bar.state == "shrunk" for bar in shown)
    return (
        f"Of the teacher's {len(shown)} convolutions and linear layers, {removed} were "
        f"removed, {shrunk} shrunk and {len(shown) - removed - shrunk} kept."
    )


def _row(bar: Bar, top: float, left: float, right: float, scale: float) -> str:
    state, text = bar.state, top + ROW / 2 + 4
    full, rest = (max(2.0, width * scale) for width in (bar.old, bar.new))
    box = f'y="{top + (ROW - BAR) / 2}" height="{BAR}" rx="2"'
    name = escape(shorten(bar.name, LETTERS))
    parts = [
        f'<text class="name" x="0" y="{text}">{name}</text>',
        f'<rect class="teacher" x="{left}" width="{full:.1f}" {box}/>',
        f'<rect class="ghost" x="{right}" width="{full:.1f}" {box}/>',
    ]
    if bar.new:
        parts.append(f'<rect class="{state}" x="{right}" width="{rest:.1f}" {box}/>')
    parts.append(
        f'<text class="state {state}" x="{right + WIDEST + 10}" y="{text}">'
        f"{escape(bar.change)}</text>"
    )
    about = f"{bar.name}: {bar.old} in the teacher; {bar.change}"
    return f"<g><title>{escape(about)}</title>{''.join(parts)}</g>"
