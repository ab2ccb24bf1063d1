"""The training loop: a network learns labels, a teacher's logits, or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inputs import Normalisation, Variants, cut_out, resized
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Batch, Split

# The complete state of a training, which ``torch.save`` writes and ``torch.load`` reads
# with ``weights_only``.
State: TypeAlias = dict[str, Any]
# Function from normalised images, (B, C, H, W), to logits, (B, classes).
Classify: TypeAlias = Callable[[Tensor], Tensor]
# Progress of a training from which images have their own size, as in the schedules of
# FFCV (Leclerc et al., 2023) for ImageNet.
WHOLE_FROM: Final = 0.8


class Diverged(ArithmeticError):
    """The loss became infinite or not a number."""


def initialise(network: nn.Module) -> None:
    """Draw initial weights of convolutions: He et al. (2015) by fan-out.

    Torchvision does the same. Other layers stay unchanged.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def distillation_loss(
    outputs: Tensor, labels: Tensor, logits: Tensor | None, recipe: Recipe
) -> Tensor:
    """hard_weight * cross-entropy + logit_weight * `logit_distance`."""
    loss = outputs.new_zeros(())
    if recipe.hard_weight:
        hard = F.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
        loss = recipe.hard_weight * hard
    if recipe.logit_weight:
        assert logits is not None, (
            "a recipe with logit_weight needs the teacher's logits"
        )
        distance = logit_distance(outputs, logits, recipe.temperature)
        loss = loss + recipe.logit_weight * distance
    return loss


def logit_distance(
    outputs: Tensor, logits: Tensor, temperature: float | None
) -> Tensor:
    """Distance of a network's outputs from a teacher's logits, the mean over images.

    Args:
        outputs, logits: (B, classes) each.
        temperature: None for ||outputs - logits||^2, otherwise T in
            T^2 KL(softmax(logits / T) || softmax(outputs / T)).
    """
    if temperature is None:
        return (outputs - logits).square().sum(1).mean()
    said, wanted = (F.log_softmax(x / temperature, 1) for x in (outputs, logits))
    divergence = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def one_cycle(progress: float, warmup_share: float, fall_power: float = 1.0) -> float:
    """Fraction of the highest learning rate: a linear rise, then half a cosine.

    Args:
        progress: Fraction of the training's steps that are done.
        warmup_share: Fraction of the steps in which the rate rises.
        fall_power: Exponent of the half cosine.
    """
    if progress < warmup_share:
        return 0.05 + 0.95 * progress / warmup_share
    fall = (progress - warmup_share) / (1 - warmup_share)
    return float((0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))) ** fall_power)


def side_at(progress: float, smallest_side: float) -> float:
    """Side of the training images, as a fraction of their own side.

    It grows linearly and is 1 in the last steps, so that batch-norm statistics are
    those of whole images.

    Args:
        progress: Fraction of the training's steps that are done.
        smallest_side: The fraction at the beginning.
    """
    return smallest_side + (1 - smallest_side) * min(1.0, progress / WHOLE_FROM)


def set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    """Set the learning rate for this progress of the training, in [0, 1]."""
    share = one_cycle(progress, recipe.warmup_share, recipe.fall_power)
    rate = recipe.learning_rate * share
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.enable_grad()
def train(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    logits: Tensor | Classify | Variants | None = None,
    augment: Augmentation | None = None,
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[Callable[[], State]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
) -> None:
    """Train a network in place on the split's device, one shuffled pass per epoch.

    Args:
        network: The network to train.
        split: Training images and labels.
        normalise: Normalisation of the images.
        recipe: Recipe of the training.
        generator: Generator on the CPU that shuffles and augments.
        logits: The teacher's logits of this split's images, (N, classes), or a function
            that computes them from images of full size, or variants with logits. None
            if the recipe needs no logits.
        augment: Random changes of the images. Logits given as a tensor stay those of
            the unchanged images.
        after_step: Callback after each step.
        after_epoch: Callback after each epoch, with a function that returns the
            training's state.
        resume: State of a training with the same recipe, which goes on as if it had
            never stopped; None to begin a training.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    device, size = split.device, min(recipe.batch_size, len(split))
    steps = len(split) // size  # each epoch leaves out an incomplete batch
    num_steps = max(1, round(recipe.epochs * steps))
    optimiser = make_optimiser(network, recipe)
    average = _Average(network, recipe, num_steps)
    done = 0
    if resume is not None:
        done = _restore(resume, network, optimiser, generator, average, device)
    network.train()
    for epoch in range(done, math.ceil(num_steps / steps)):
        here = min(steps, num_steps - epoch * steps)
        order = torch.randperm(len(split), generator=generator)[: here * size]
        total = torch.zeros((), device=device)
        batches = split.batches(size, order)
        shown = _shown(batches, normalise, recipe, generator, logits, augment)
        for i, (inputs, labels, targets) in enumerate(shown):
            progress = (epoch * steps + i) / num_steps
            if recipe.optimiser == "sgd":
                set_rate(optimiser, recipe, progress)
            optimiser.zero_grad(set_to_none=True)
            seen = resized(inputs, side_at(progress, recipe.smallest_side))
            with autocast(device, recipe.precision):
                outputs = network(seen)
            loss = distillation_loss(outputs.float(), labels, targets, recipe)
            _descend(loss, network, optimiser, recipe)
            average.update(network)
            total += loss.detach()
            if after_step is not None:
                after_step()
        if not torch.isfinite(total):
            raise Diverged(f"the loss became {total.item()}")
        if after_epoch is not None:
            parts = network, optimiser, generator, average
            after_epoch(partial(_state, epoch + 1, *parts))
            network.train()
    average.load_into(network)
    network.eval()


def _shown(
    batches: Iterable[Batch],
    normalise: Normalisation,
    recipe: Recipe,
    generator: torch.Generator,
    logits: Tensor | Classify | Variants | None,
    augment: Augmentation | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """What a network is shown of each batch: inputs, labels, the teacher's logits."""
    for images, labels, positions in batches:
        if augment is not None:
            images = augment(images, generator)
        targets = logits[positions] if isinstance(logits, Tensor) else None
        if isinstance(logits, Variants):
            images, targets = logits.pick(images, positions, generator)
        inputs = normalise(images)
        if recipe.cutout:
            inputs = cut_out(inputs, recipe.cutout, generator)
        if targets is None and callable(logits):
            with torch.no_grad():
                targets = logits(inputs)
        yield inputs, labels, targets


def _descend(
    loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.largest_gradient is not None:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.largest_gradient)
    optimiser.step()


class _Average:
    """The exponential average of a network's state; empty if the recipe has none."""

    def __init__(self, network: nn.Module, recipe: Recipe, num_steps: int) -> None:
        self.state: dict[str, Tensor] = {}
        if recipe.average_share:
            self.state = {name: w.clone() for name, w in network.state_dict().items()}
        self.decay = 1 - 1 / max(1.0, recipe.average_share * num_steps)

    def update(self, network: nn.Module) -> None:
        if self.state:
            update_average(self.state, network, self.decay)

    def load_into(self, network: nn.Module) -> None:
        if self.state:
            network.load_state_dict(self.state)


@torch.no_grad()
def update_average(
    averaged: Mapping[str, Tensor], network: nn.Module, decay: float
) -> None:
    """Set an average to decay * average + (1 - decay) * the network's state, in place.

    The average includes batch-norm statistics. Integers, which count batches, are
    copied.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            averaged[name].lerp_(tensor, 1 - decay)
        else:
            averaged[name].copy_(tensor)


def _state(
    epoch: int,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    average: _Average,
) -> State:
    device = next(network.parameters()).device
    random = [torch.random.get_rng_state()]
    if device.type != "cpu":
        random.append(torch.get_device_module(device).get_rng_state())
    return {
        "epoch": epoch,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.get_state(),
        "random": random,
        "averaged": average.state,
    }


def _restore(
    state: Mapping[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    average: _Average,
    device: torch.device,
) -> int:
    """Restore a state; return the number of epochs done."""
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for name, tensor in average.state.items():  # states from before have no average
        tensor.copy_(state["averaged"][name])
    generator.set_state(state["generator"])
    torch.random.set_rng_state(state["random"][0])
    if device.type != "cpu" and len(state["random"]) > 1:
        torch.get_device_module(device).set_rng_state(state["random"][1])
    return int(state["epoch"])


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe."""
    if recipe.optimiser == "adam":
        return torch.optim.Adam(
            network.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        _parameter_groups(network, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def _parameter_groups(
    network: nn.Module, weight_decay: float
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Parameters with and without decay: those of one dimension do not decay.

    These are biases and the parameters of normalisation.
    """
    parameters = list(network.parameters())
    return [
        {
            "params": [p for p in parameters if p.dim() > 1],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
