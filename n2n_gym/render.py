"""How a network under compression looks on a terminal."""

from __future__ import annotations

from typing import Final

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import Removal, Shrinkage, units

BAR: Final = 32  # characters for the widest layer


def draw_ansi(
    teacher: Architecture,
    start: Architecture,
    student: Architecture,
    current: Removal | Shrinkage | None,
) -> str:
    """One line a convolution or linear layer: what is left of its width.

    Args:
        current: The decision at hand, whose layers are marked.
    """
    heads = [unit[0] for unit in units(teacher)]
    widest = max(teacher.shape_of(head)[0] for head in heads)
    names = [teacher.layers[head].name for head in heads]
    marked = {start.layers[p].name for p in current.layers} if current else set()
    lines = []
    for head, name in zip(heads, names, strict=True):
        old = teacher.shape_of(head)[0]
        position = student.positions.get(name)
        new = 0 if position is None else student.shape_of(position)[0]
        full = max(1, round(BAR * old / widest))
        kept = min(full, max(1, round(BAR * new / widest))) if new else 0
        bar = ("█" * kept + "░" * (full - kept)).ljust(BAR)
        state = "removed" if not new else str(old) if new == old else f"{old} -> {new}"
        if position is not None:
            state += _kernels(teacher, head, student, position)
        mark = ">" if name in marked else " "
        lines.append(f"{mark} {name.ljust(max(map(len, names)))}  {bar}  {state}")
    times = teacher.num_params / student.num_params
    lines.append(
        f"{student.num_params:,} of {teacher.num_params:,} parameters: "
        f"{times:.1f}x smaller"
    )
    return "\n".join(lines)


def _kernels(
    teacher: Architecture, head: int, student: Architecture, position: int
) -> str:
    """The change of a kernel, if any."""
    old = getattr(teacher.layers[head], "kernel", None)
    new = getattr(student.layers[position], "kernel", None)
    if old is None or new is None or old == new:
        return ""
    return f", {old[0]}x{old[1]} -> {new[0]}x{new[1]}"
