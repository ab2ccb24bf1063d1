"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

# Panels of a long --help; what has none is shown first.
SEARCH, INPUTS, PLACE, FILES, COMPARISON = (
    {"rich_help_panel": title}
    for title in (
        "Search",
        "The teacher's inputs",
        "Machine and precision",
        "Files and scores",
        "Comparison",
    )
)


def at_least(least: int) -> Callable[[int | None], int | None]:
    """A callback that refuses less.

    Typer's own ``min`` takes eight characters of every line of the help.
    """

    def check(value: int | None) -> int | None:
        if value is not None and value < least:
            raise typer.BadParameter(f"{value} is not in the range x>={least}.")
        return value

    return check


TEACHER: Final[Any] = typer.Option(
    help="The network to start from: a name (`n2n-gym teachers` lists them), "
    "module:function, module:Class, or an architecture's .json file."
)
Teacher = Annotated[str, TEACHER]
OptionalTeacher = Annotated[str | None, TEACHER]  # where none is a default
TASK: Final[Any] = typer.Option(
    help="The images: a name (`n2n-gym tasks` lists them), an .npz file, a folder "
    "(path@64: of that side), or module:function."
)
TaskName = Annotated[str, TASK]
OptionalTask = Annotated[str | None, TASK]  # where none is a default
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trained weights of the teacher: a safetensors file, a state dict of "
        "torch.save, or torchvision's name (IMAGENET1K_V1)."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of each channel, of pixels in [0, 1]: 0.485,0.456,0.406. By default "
        "that of the training images.",
        **INPUTS,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation of each channel, likewise.", **INPUTS),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, ...; by default the accelerator if there is one.", **PLACE
    ),
]
TrainTeacher = Annotated[
    bool,
    typer.Option(
        help="Does nothing: a teacher that has to be trained is trained.", hidden=True
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Of training: float32 or bfloat16. By default the faster one here; scores "
        "depend on it.",
        **PLACE,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Layers that stay as they are, names or patterns: layer4.*,conv1. Their "
        "inputs may become fewer."
    ),
]
