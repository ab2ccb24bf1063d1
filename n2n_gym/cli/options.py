"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Teacher = Annotated[
    str,
    typer.Option(
        help="The network to start from: one of torchvision's by name (`n2n-gym "
        "teachers` lists them), module:function, which is given the task, module:Class "
        "or module:instance, or the path of an architecture's .json file."
    ),
]
Task = Annotated[
    str,
    typer.Option(
        help="The images: a name (`n2n-gym tasks` lists them), the path of an .npz "
        "file or of a folder of images (path@64: of that side), or module:function."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trained weights of the teacher: a safetensors file, a state dict that "
        "torch.save wrote, or torchvision's name for them (IMAGENET1K_V1)."
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        help="What the teacher's inputs are normalised with, by channel, of pixels in "
        "[0, 1]: 0.485,0.456,0.406. By default as the training images."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, ...; the accelerator by default if there is one."),
]
TrainTeacher = Annotated[
    bool,
    typer.Option(help="Does nothing: a teacher that has to be trained is trained."),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="In which students are trained, and the teacher if it has to be: float32 "
        "or bfloat16. By default the faster one on this machine; scores depend on it."
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Layers that stay as they are, or patterns, with commas between: "
        "layer4.*,conv1. Their inputs may become fewer."
    ),
]
