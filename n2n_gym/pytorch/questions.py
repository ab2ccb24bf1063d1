"""Questions that a user's forward may ask, and that a trace answers once and for all.

How many images are there, of which type, is this inference mode? torch.fx follows
the branch of the answers that it gets. What torch, torchvision and timm have written
asks none of this.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Shape
from n2n_gym.pytorch.arguments import TraceError
from n2n_gym.pytorch.randomised import copy_of

LIBRARIES: Final = ("torch.", "torchvision.", "timm.")
COUNTS: Final = (1, 500)  # of images, beside those of every trace
IN_FLOAT32: Final = 1e-4  # of the largest logit; rounding comes to some 6e-6


class Translate(Protocol):
    """``trace.translate``."""

    def __call__(
        self,
        module: nn.Module,
        input_shape: Shape,
        *,
        is_training: bool = False,
        num_images: int = ...,
    ) -> Architecture: ...


def asks_questions(module: nn.Module) -> bool:
    """Whether some of its code may: whether it is a user's."""
    return not all(type(m).__module__.startswith(LIBRARIES) for m in module.modules())


def refuse_other_counts(
    module: nn.Module, architecture: Architecture, translate: Translate
) -> None:
    """Refuse a module whose forward depends on how many images there are.

    A count that it fails with is none that it is meant for: ``squeeze`` of one image.

    Raises:
        TraceError: With so many it computes something else.
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
                f"{type(module).__name__} computes something else for {count} images "
                f"at once than for a few: its forward asks how many there are"
            )


def in_float32(module: nn.Module, images: Tensor) -> object:
    """What a module in eval mode gives in single precision and inference mode."""

    def narrow(_: str, tensor: Tensor) -> Tensor:
        single = tensor.float() if tensor.is_floating_point() else tensor
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(single, requires_grad=False) if is_parameter else single

    single = copy_of(module, narrow).eval()
    with torch.inference_mode():
        return single(images.float())
