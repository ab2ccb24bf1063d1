"""Teacher and student side by side, one bar per layer, as HTML of any width."""

from __future__ import annotations

from html import escape
from typing import Final

from n2n_gym.envs.render import LETTERS, LayerBar, bars, shorten
from n2n_gym.networks.architecture import Architecture

HEAD: Final = (
    '<div class="head"><span></span><span class="teacher">teacher</span>'
    "<span>student</span><span></span></div>"
)


def draw(teacher: Architecture, student: Architecture) -> str:
    """The teacher's bars on the left, the student's bars on the right.

    The page styles the bars by class: ``teacher``, ``ghost`` (the outline of the
    teacher's bar behind a bar of the student), ``kept``, ``shrunk``, ``removed``.
    """
    shown = bars(teacher, teacher, student, None)
    widest = max(bar.old for bar in shown)
    rows = "".join(_row(bar, widest) for bar in shown)
    label = escape(describe(shown))
    return f'<div class="network" role="img" aria-label="{label}">{HEAD}{rows}</div>'


def describe(shown: list[LayerBar]) -> str:
    """A description of the diagram in words."""
    removed = sum(not bar.new for bar in shown)
    shrunk = sum(bar.state == "shrunk" for bar in shown)
    return (
        f"Of the teacher's {len(shown)} convolutions and linear layers, {removed} were "
        f"removed, {shrunk} shrunk and {len(shown) - removed - shrunk} kept."
    )


def _row(bar: LayerBar, widest: int) -> str:
    full, rest = f"{bar.old / widest:.2%}", f"{bar.new / bar.old:.2%}"
    change = escape(bar.change.replace("->", "\N{RIGHTWARDS ARROW}"))
    left = f'<i style="width:{rest}" class="{bar.state}"></i>' if bar.new else ""
    return (
        f'<div title="{escape(bar.name)}: {bar.old} in the teacher; {change}">'
        f"<span>{escape(shorten(bar.name, LETTERS))}</span>"
        f'<span class="teacher"><i style="width:{full}"></i></span>'
        f'<span><i class="ghost" style="width:{full}">{left}</i></span>'
        f'<span class="{bar.state}">{change}</span></div>'
    )
