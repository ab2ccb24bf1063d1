"""Questions in a user's forward that a trace answers only once.

How many images are there, what is their type, is this inference mode? torch.fx follows
only the branch for the answers that a trace gives. Code of torch, torchvision and timm
asks no such question.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Shape
from n2n_gym.pytorch.arguments import TraceError
from n2n_gym.pytorch.randomised import copy_of

LIBRARIES: Final = ("torch.", "torchvision.", "timm.")
COUNTS: Final = (1, 500)  # numbers of images tried besides the trace's own
IN_FLOAT32: Final = 1e-4  # of the largest logit; equal operations give 0


class Translate(Protocol):
    """Type of ``trace.translate``."""

    def __call__(
        self,
        module: nn.Module,
        input_shape: Shape,
        *,
        is_training: bool = False,
        num_images: int = ...,
    ) -> Architecture: ...


def asks_questions(module: nn.Module) -> bool:
    """Whether a module has a user's own code, which could ask such a question."""
    return not all(type(m).__module__.startswith(LIBRARIES) for m in module.modules())


def refuse_other_counts(
    module: nn.Module, architecture: Architecture, translate: Translate
) -> None:
    """Refuse a module with a forward that depends on the number of images.

    Numbers for which the module itself fails are skipped: one image may fail after a
    ``squeeze``.

    Args:
        architecture: The module's trace with the usual number of images.
        translate: Function that traces the module with another number of images.

    Raises:
        TraceError: The module computes something else for another number of images.
    """
    whole = architecture.input_shape
    copied = copy_of(module).to("meta").float().eval()
    for count in COUNTS:
        try:
            with torch.no_grad():
                copied(torch.empty(count, *whole, device="meta"))
        except Exception:  # the user's own code, which may raise anything
            continue
        try:
            is_same = translate(module, whole, num_images=count) == architecture
        except TraceError:
            is_same = False
        if not is_same:
            raise TraceError(
                f"{type(module).__name__} gives other results for {count} images at "
                f"once than for a few: its forward uses the number of images"
            )


def in_float32(module: nn.Module, images: Tensor) -> Any:
    """The output of a module in eval mode, in float32 and inference mode."""

    def narrow(_: str, tensor: Tensor) -> Tensor:
        single = tensor.float() if tensor.is_floating_point() else tensor
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(single, requires_grad=False) if is_parameter else single

    single = copy_of(module, narrow).eval()
    with torch.inference_mode():
        return single(images.float())
