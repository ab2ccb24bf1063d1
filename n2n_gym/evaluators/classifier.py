"""A student's last layer, fitted to its teacher without training."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Linear
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inference import recompute_statistics
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.pytorch.training import Diverged
from n2n_gym.tasks.split import Split

RIDGE: Final = 0.1  # of the features' mean square


@torch.no_grad()
def fit_classifier(
    network: Network,
    split: Split,
    normalise: Normalisation,
    *,
    student: Architecture,
    logits: Tensor,
    positions: Tensor,
    precision: Precision,
    batch_size: int,
) -> None:
    """Batch-norm statistics anew, and with them the classifier, from one pass.

    Its weights are those of ridge regression from its inputs to the teacher's logits:
    the least of the paper's distance, (1/N) sum ||f(x_i) - z_i||^2, in closed form. A
    network whose last layer is not linear has its statistics renewed alone.

    Args:
        logits: The teacher's on the split, (N, classes).
        positions: Of the images to use, (M,) int64.

    Raises:
        Diverged: Its features are not finite.
    """
    features: list[Tensor] = []
    last = student.layers[-1]
    layer = network.get_submodule(last.name) if isinstance(last, Linear) else None
    if layer is not None:
        reader = layer.register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0].double().cpu())
        )
    recompute_statistics(
        network,
        split,
        normalise,
        positions=positions,
        precision=precision,
        batch_size=batch_size,
    )
    if layer is None:
        return
    assert isinstance(layer, nn.Linear)
    if not features:  # it has no statistics
        for images, _, _ in split.batches(batch_size, positions):
            with autocast(split.device, precision):
                network(normalise(images))
    reader.remove()
    wanted = logits[positions.to(logits.device)].double().cpu()
    weight, bias = ridge(torch.cat(features), wanted, is_centred=layer.bias is not None)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)


def ridge(
    inputs: Tensor, outputs: Tensor, *, is_centred: bool = True
) -> tuple[Tensor, Tensor]:
    """The linear map of least squares, its weights held down by ``RIDGE``.

    Args:
        inputs: (N, F) float64.
        outputs: (N, C) float64.
        is_centred: Whether the map has a bias; without, that is zero.

    Returns:
        Weights (C, F) and bias (C,).

    Raises:
        Diverged: The inputs are not finite.
    """
    if not inputs.isfinite().all():
        raise Diverged("the classifier's inputs are not finite")
    x_mean, y_mean = inputs.mean(0), outputs.mean(0)
    if not is_centred:
        x_mean, y_mean = torch.zeros_like(x_mean), torch.zeros_like(y_mean)
    x, y = inputs - x_mean, outputs - y_mean
    num_images, num_features = x.shape
    least = torch.finfo(x.dtype).tiny  # where all inputs are the same
    held = max(RIDGE * x.square().sum().item() / num_features, least)
    # The smaller of two systems that have the same solution.
    if num_images < num_features:
        gram = x @ x.T
        gram.diagonal().add_(held)
        weight = torch.linalg.solve(gram, y).T @ x
    else:
        gram = x.T @ x
        gram.diagonal().add_(held)
        weight = torch.linalg.solve(gram, x.T @ y).T
    return weight, y_mean - weight @ x_mean
