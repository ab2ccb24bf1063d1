"""Fits a student's last layer to its teacher's logits, without training."""

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

RIDGE: Final = 0.1  # ridge penalty, relative to the features' mean square


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
    """Recompute batch-norm statistics and fit the last layer, in one pass over images.

    The last layer, which is the classifier, is fitted by ridge regression from its
    inputs to the teacher's logits. In closed form, this minimises (1/N) sum ||f(x_i) -
    z_i||^2 plus a penalty on the weights, where f(x_i) are the student's logits of
    image i and z_i the teacher's; the sum is the distillation loss of Ashok et al.
    (2018). If the last layer is not linear, only the statistics are recomputed.

    Args:
        network: The student; it is changed in place.
        student: The network's architecture.
        logits: The teacher's logits on the split, (N, classes).
        positions: Positions of the images to use, (M,) int64.
        batch_size: Number of images in a forward pass.

    Raises:
        Diverged: The classifier's inputs are not finite.
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
    if not features:  # without batch norm, the network was not run
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
    """Fit a linear map by ridge regression, with the relative penalty ``RIDGE``.

    Args:
        inputs: Inputs of the map, (N, F) float64.
        outputs: Wanted outputs of the map, (N, C) float64.
        is_centred: Whether the map has a bias. If False, the returned bias is zero.

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
    # Two systems have the same solution; this is the smaller one.
    if num_images < num_features:
        gram = x @ x.T
        gram.diagonal().add_(held)
        weight = torch.linalg.solve(gram, y).T @ x
    else:
        gram = x.T @ x
        gram.diagonal().add_(held)
        weight = torch.linalg.solve(gram, x.T @ y).T
    return weight, y_mean - weight @ x_mean
