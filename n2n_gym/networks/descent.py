"""The check that a network can result from removals and shrinkages of a teacher."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import VARIABLES


def refuse_stranger(student: Architecture, teacher: Architecture) -> None:
    """Raise a ValueError unless the network descends from the teacher.

    The message names the first difference.
    """

    def refuse(what: str) -> None:
        raise ValueError(f"start is no descendant of the teacher: {what}")

    if student.input_shape != teacher.input_shape:
        refuse(f"it takes {student.input_shape} images, not {teacher.input_shape}")
    if student.shapes[-1] != teacher.shapes[-1]:
        refuse(f"it emits {student.shapes[-1]}, not {teacher.shapes[-1]}")
    previous = -1
    for layer in student.layers:
        position = teacher.positions.get(layer.name, -1)
        if position == -1:
            refuse(f"the teacher has no layer {layer.name!r}")
        original = teacher.layers[position]
        if original.kind != layer.kind:
            refuse(f"{layer.name} is {layer.kind}, the teacher's {original.kind}")
        if position < previous:
            refuse(f"{layer.name} comes earlier in the teacher")
        for field in fields(layer):
            new, old = getattr(layer, field.name), getattr(original, field.name)
            if field.name in VARIABLES:  # it may be smaller here
                if np.any(np.greater(new, old)):
                    refuse(f"{layer.name} has the {field.name} {new}, there {old}")
            elif field.name != "inputs" and new != old:
                refuse(f"{layer.name} has {field.name}={new}, there {old}")
        previous = position
