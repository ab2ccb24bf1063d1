"""Pictures of a network under compression: one bar per layer, as text or pixels."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Removal, Shrinkage, units

COLUMNS: Final = 80  # default width of text
FEWEST_COLUMNS: Final = 30
BAR: Final = 32  # characters for the widest layer, at most

# Sizes in the picture, in pixels.
ROW, MARGIN, NAME, WIDEST, STATE = 20, 16, 190, 300, 190
LETTERS: Final = 24  # letters of a name that fit its column
PAPER, INK, FAINT = (255, 255, 255), (32, 36, 44), (150, 156, 166)
GONE, MARK = (226, 229, 233), (255, 240, 205)
COLOURS: Final = {
    "kept": (46, 125, 110),
    "shrunk": (214, 137, 16),
    "removed": GONE,
}

State = Literal["kept", "shrunk", "removed"]


class LayerBar(NamedTuple):
    """One convolution or linear layer of the teacher."""

    name: str
    old: int  # width in the teacher
    new: int  # width in the student, 0 if removed
    change: str  # in words
    is_current: bool  # whether the next decision is about it

    @property
    def state(self) -> State:
        """Kept, shrunk or removed; a layer with a smaller kernel counts as shrunk."""
        if not self.new:
            return "removed"
        return "kept" if self.change == str(self.old) else "shrunk"


class Scene(NamedTuple):
    """A network in the middle of an episode.

    Attributes:
        current: The next decision, about layers of the start; None at the end.
        position: Index of the next decision, from 0 to ``num_decisions`` - 1.
    """

    teacher: Architecture
    start: Architecture
    student: Architecture
    current: Removal | Shrinkage | None
    position: int
    num_decisions: int

    @property
    def heading(self) -> str:
        """The text for the next decision."""
        if self.current is None:
            return "the finished student"
        number = f"{self.position + 1} of {self.num_decisions}"
        return f"decision {number}: {describe(self.current)}"

    @property
    def total(self) -> str:
        """The text for the compression so far."""
        times = self.teacher.num_params / self.student.num_params
        return (
            f"{self.student.num_params:,} of {self.teacher.num_params:,} parameters: "
            f"{times:.1f}x smaller"
        )


def describe(decision: Removal | Shrinkage) -> str:
    """A decision as a question."""
    if isinstance(decision, Removal):
        return f"remove {decision.form} {decision.name}?"
    return f"how much of the {decision.variable} of {decision.name} remains?"


def bars(
    teacher: Architecture,
    start: Architecture,
    student: Architecture,
    current: Removal | Shrinkage | None,
) -> list[LayerBar]:
    """A bar for each convolution and linear layer of the teacher.

    Args:
        current: The next decision, about layers of the start.
    """
    marked = {start.layers[p].name for p in current.layers} if current else set()
    found = []
    for head in (unit[0] for unit in units(teacher)):
        name = teacher.layers[head].name
        old = teacher.shape_of(head)[0]
        position = student.positions.get(name)
        new = 0 if position is None else student.shape_of(position)[0]
        change = "removed" if not new else str(old) if new == old else f"{old} -> {new}"
        if position is not None:
            change += _kernels(teacher, head, student, position)
        found.append(LayerBar(name, old, new, change, name in marked))
    return found


def _kernels(
    teacher: Architecture, head: int, student: Architecture, position: int
) -> str:
    """The text for a changed kernel; empty if the kernel is unchanged."""
    old = getattr(teacher.layers[head], "kernel", None)
    new = getattr(student.layers[position], "kernel", None)
    if old is None or new is None or old == new:
        return ""
    return f", {old[0]}x{old[1]} -> {new[0]}x{new[1]}"


def _length(width: int, widest: int, longest: int) -> int:
    """Length of the bar of a layer: 0 for the width 0, otherwise at least 1."""
    return min(longest, max(1, round(longest * width / widest))) if width else 0


class Line(NamedTuple):
    """A bar as text: mark, name, remaining part, removed part, change."""

    mark: str
    name: str
    kept: str
    gone: str
    change: str
    state: State


def lines(shown: list[LayerBar], columns: int = COLUMNS) -> list[Line]:
    """The bars as text of this many columns; long names lose their beginning."""
    columns = max(columns, FEWEST_COLUMNS)
    widest = max(bar.old for bar in shown)
    change = max(len(bar.change) for bar in shown)
    name = max(len(bar.name) for bar in shown)
    free = columns - 6 - change  # a mark and spaces between
    name = min(name, max(8, free // 2))
    longest = max(4, min(BAR, free - name))
    found = []
    for bar in shown:
        full, kept = (_length(w, widest, longest) for w in (bar.old, bar.new))
        short = shorten(bar.name, name)
        found.append(
            Line(
                ">" if bar.is_current else " ",
                short.ljust(name),
                "█" * kept,
                ("░" * (full - kept)).ljust(longest - kept),
                bar.change,
                bar.state,
            )
        )
    return found


def shorten(name: str, longest: int) -> str:
    """A layer's name; a name of more than ``longest`` letters loses its beginning."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def draw_ansi(scene: Scene, columns: int = COLUMNS) -> str:
    """Lines of text; ``>`` marks the layers of the next decision."""
    shown = bars(scene.teacher, scene.start, scene.student, scene.current)
    rows = [
        f"{line.mark} {line.name}  {line.kept}{line.gone}  {line.change}"
        for line in lines(shown, columns)
    ]
    return "\n".join([scene.heading, *rows, scene.total])


def draw_rgb(scene: Scene) -> NDArray[np.uint8]:
    """A picture of the bars, (H, W, 3); its size is constant during an episode."""
    from PIL import Image, ImageDraw, ImageFont  # only pictures need this slow import

    shown = bars(scene.teacher, scene.start, scene.student, scene.current)
    widest = max(bar.old for bar in shown)
    left = MARGIN + NAME
    size = left + WIDEST + STATE + MARGIN, (len(shown) + 4) * ROW + 2 * MARGIN
    picture = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), scene.heading, fill=INK, font=font)
    for i, bar in enumerate(shown):
        top = MARGIN + round((i + 1.5) * ROW)
        if bar.is_current:
            draw.rectangle((4, top, size[0] - 5, top + ROW - 1), fill=MARK)
        ink = INK if bar.new else FAINT
        draw.text((MARGIN, top + 2), shorten(bar.name, LETTERS), fill=ink, font=font)
        for width, colour in ((bar.old, GONE), (bar.new, COLOURS[bar.state])):
            if length := _length(width, widest, WIDEST):
                box = (left, top + 4, left + length - 1, top + ROW - 5)
                draw.rectangle(box, fill=colour)
        draw.text((left + WIDEST + 10, top + 2), bar.change, fill=ink, font=font)
    top = MARGIN + (len(shown) + 2) * ROW
    draw.text((MARGIN, top), scene.total, fill=INK, font=font)
    return np.asarray(picture)


def draw_student(teacher: Architecture, student: Architecture) -> NDArray[np.uint8]:
    """A picture of a student beside its teacher, (H, W, 3)."""
    return draw_rgb(Scene(teacher, teacher, student, None, 0, 0))
