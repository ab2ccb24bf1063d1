"""How a network under compression looks: a bar a layer, as text or as a picture."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import Removal, Shrinkage, units

BAR: Final = 32  # characters for the widest layer

# Of the picture, in pixels.
ROW, MARGIN, NAME, WIDEST, STATE = 20, 16, 190, 300, 190
PAPER, INK, FAINT = (255, 255, 255), (32, 36, 44), (150, 156, 166)
KEPT, GONE, MARK = (46, 125, 110), (226, 229, 233), (255, 240, 205)


class Bar(NamedTuple):
    """One convolution or linear layer of the teacher."""

    name: str
    old: int  # width in the teacher
    new: int  # width in the student, 0 if removed
    state: str  # the change in words
    is_current: bool  # whether the decision at hand is about it


def bars(
    teacher: Architecture,
    start: Architecture,
    student: Architecture,
    current: Removal | Shrinkage | None,
) -> list[Bar]:
    """What is left of each layer.

    Args:
        current: The decision at hand, about layers of the start.
    """
    marked = {start.layers[p].name for p in current.layers} if current else set()
    found = []
    for head in (unit[0] for unit in units(teacher)):
        name = teacher.layers[head].name
        old = teacher.shape_of(head)[0]
        position = student.positions.get(name)
        new = 0 if position is None else student.shape_of(position)[0]
        state = "removed" if not new else str(old) if new == old else f"{old} -> {new}"
        if position is not None:
            state += _kernels(teacher, head, student, position)
        found.append(Bar(name, old, new, state, name in marked))
    return found


def _kernels(
    teacher: Architecture, head: int, student: Architecture, position: int
) -> str:
    """The change of a kernel, if any."""
    old = getattr(teacher.layers[head], "kernel", None)
    new = getattr(student.layers[position], "kernel", None)
    if old is None or new is None or old == new:
        return ""
    return f", {old[0]}x{old[1]} -> {new[0]}x{new[1]}"


def _total(teacher: Architecture, student: Architecture) -> str:
    times = teacher.num_params / student.num_params
    return (
        f"{student.num_params:,} of {teacher.num_params:,} parameters: "
        f"{times:.1f}x smaller"
    )


def _length(width: int, widest: int, longest: int) -> int:
    """Of a bar; whatever is there is seen."""
    return min(longest, max(1, round(longest * width / widest))) if width else 0


def draw_ansi(
    teacher: Architecture,
    start: Architecture,
    student: Architecture,
    current: Removal | Shrinkage | None,
) -> str:
    """Lines of text; ``>`` marks what the decision at hand is about."""
    shown = bars(teacher, start, student, current)
    widest = max(bar.old for bar in shown)
    longest = max(len(bar.name) for bar in shown)
    lines = []
    for bar in shown:
        full, kept = _length(bar.old, widest, BAR), _length(bar.new, widest, BAR)
        drawn = ("█" * kept + "░" * (full - kept)).ljust(BAR)
        mark = ">" if bar.is_current else " "
        lines.append(f"{mark} {bar.name.ljust(longest)}  {drawn}  {bar.state}")
    return "\n".join([*lines, _total(teacher, student)])


def draw_rgb(
    teacher: Architecture,
    start: Architecture,
    student: Architecture,
    current: Removal | Shrinkage | None,
) -> NDArray[np.uint8]:
    """The same as a picture, (H, W, 3); of one size throughout an episode."""
    from PIL import Image, ImageDraw, ImageFont  # only who asks for pictures waits

    shown = bars(teacher, start, student, current)
    widest = max(bar.old for bar in shown)
    left = MARGIN + NAME
    size = left + WIDEST + STATE + MARGIN, (len(shown) + 2) * ROW + 2 * MARGIN
    picture = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for i, bar in enumerate(shown):
        top = MARGIN + i * ROW
        if bar.is_current:
            draw.rectangle((4, top, size[0] - 5, top + ROW - 1), fill=MARK)
        ink = INK if bar.new else FAINT
        draw.text((MARGIN, top + 2), bar.name, fill=ink, font=font)
        for width, colour in ((bar.old, GONE), (bar.new, KEPT)):
            if length := _length(width, widest, WIDEST):
                box = (left, top + 4, left + length - 1, top + ROW - 5)
                draw.rectangle(box, fill=colour)
        draw.text((left + WIDEST + 10, top + 2), bar.state, fill=ink, font=font)
    top = MARGIN + len(shown) * ROW + ROW // 2
    draw.text((MARGIN, top), _total(teacher, student), fill=INK, font=font)
    return np.asarray(picture)
