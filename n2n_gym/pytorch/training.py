"""The one training loop: a network learns labels, a teacher's logits, or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inputs import Normalisation, Views
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split

# All of a training under way: what ``torch.save`` takes and ``weights_only`` reads.
State: TypeAlias = dict[str, Any]
# Normalised images, (B, C, H, W), to logits, (B, classes).
Classify: TypeAlias = Callable[[Tensor], Tensor]


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


def initialise(network: nn.Module) -> None:
    """Weights to start training from: He et al. (2015) by fan-out, as torchvision."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def distillation_loss(
    outputs: Tensor, labels: Tensor, logits: Tensor | None, recipe: Recipe
) -> Tensor:
    """hard_weight * cross-entropy + logit_weight * mean ||outputs - logits||^2."""
    loss = outputs.new_zeros(())
    if recipe.hard_weight:
        hard = F.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
        loss = recipe.hard_weight * hard
    if recipe.logit_weight:
        assert logits is not None, (
            "a recipe with logit_weight needs the teacher's logits"
        )
        distance = (outputs - logits).square().sum(1).mean()
        loss = loss + recipe.logit_weight * distance
    return loss


def one_cycle(progress: float, warmup_share: float) -> float:
    """The share of the highest learning rate: a linear rise, then half a cosine."""
    if progress < warmup_share:
        return 0.05 + 0.95 * progress / warmup_share
    fall = (progress - warmup_share) / (1 - warmup_share)
    return 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


@torch.enable_grad()
def train(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    logits: Tensor | Classify | Views | None = None,
    augment: Augmentation | None = None,
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[Callable[[], State]], None] | None = None,
    resume: Mapping[str, Any] | None = None,
) -> None:
    """Train a network in place on the split's device, one shuffled pass an epoch.

    Args:
        generator: Shuffles and augments; on the CPU.
        logits: The teacher's, where the recipe wants them: of this split's images,
            (N, classes), the function that gives them, or views to train on.
        augment: Of the images; logits that are given are those of the originals.
        after_epoch: Is given a function that gives all of the training's state.
        resume: Such a state, of the same recipe: the training goes on from it as if it
            had never stopped.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    device = split.device
    size = min(recipe.batch_size, len(split))
    steps = len(split) // size  # the rest of an epoch's shuffle sits out
    num_steps = max(1, round(recipe.epochs * steps))
    optimiser = make_optimiser(network, recipe)
    done = 0
    if resume is not None:
        done = _restore(resume, network, optimiser, generator, device)
    network.train()
    for epoch in range(done, math.ceil(num_steps / steps)):
        here = min(steps, num_steps - epoch * steps)
        order = torch.randperm(len(split), generator=generator)[: here * size]
        total = torch.zeros((), device=device)
        for i, (images, labels, positions) in enumerate(split.batches(size, order)):
            if recipe.optimiser == "sgd":
                progress = (epoch * steps + i) / num_steps
                for group in optimiser.param_groups:
                    rate = one_cycle(progress, recipe.warmup_share)
                    group["lr"] = recipe.learning_rate * rate
            if augment is not None:
                images = augment(images, generator)
            targets = logits[positions] if isinstance(logits, Tensor) else None
            if isinstance(logits, Views):
                images, targets = logits.pick(images, positions, generator)
            optimiser.zero_grad(set_to_none=True)
            inputs = normalise(images)
            with autocast(device, recipe.precision):
                outputs = network(inputs)
            if targets is None and callable(logits):
                with torch.no_grad():
                    targets = logits(inputs)
            loss = distillation_loss(outputs.float(), labels, targets, recipe)
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.largest_gradient is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.largest_gradient)
            optimiser.step()
            total += loss.detach()
            if after_step is not None:
                after_step()
        if not torch.isfinite(total):
            raise Diverged(f"the loss became {total.item()}")
        if after_epoch is not None:
            after_epoch(partial(_state, epoch + 1, network, optimiser, generator))
            network.train()
    network.eval()


def _state(
    epoch: int,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
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
    }


def _restore(
    state: Mapping[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    device: torch.device,
) -> int:
    """Go back to a state; gives the epochs that were done."""
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    generator.set_state(state["generator"])
    torch.random.set_rng_state(state["random"][0])
    if device.type != "cpu" and len(state["random"]) > 1:
        torch.get_device_module(device).set_rng_state(state["random"][1])
    return int(state["epoch"])


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What a recipe trains a network with."""
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
    """Weights decay; biases and normalisation, which have one dimension, do not."""
    parameters = list(network.parameters())
    return [
        {
            "params": [p for p in parameters if p.dim() > 1],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
