"""The one training loop: a network learns labels, a teacher's logits, or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.tasks import Augmentation, Split

EVALUATION_BATCH: Final = 500

# All of a training under way: what ``torch.save`` takes and ``weights_only`` reads.
State: TypeAlias = dict[str, Any]
Precision: TypeAlias = Literal["float32", "bfloat16"]
# Normalised images, (B, C, H, W), to logits, (B, classes).
Classify: TypeAlias = Callable[[Tensor], Tensor]


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum and a one-cycle rate.

    Attributes:
        epochs: Passes over the images; the last may be a part of one.
        learning_rate: The highest of the cycle.
        weight_decay: Of weights; biases and normalisation have none.
        hard_weight: Of the labels' cross-entropy in the loss.
        logit_weight: Of the squared distance to the teacher's logits: the paper's
            lambda, in L = L_hard + lambda * (1/N) sum ||f(x_i) - z_i||^2.
        label_smoothing: Of the labels' cross-entropy.
        warmup_share: Of the steps, in which the rate rises; it falls after that.
        largest_gradient: Norm that all gradients together are clipped to: squared
            distances of logits are large at first, and would throw a student off.
        precision: Of the network's arithmetic; weights and losses stay float32.
        optimiser: ``"adam"`` has no momentum of its own to set, decays all parameters
            alike through the gradient (L2), and keeps one rate throughout.
    """

    epochs: float
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    hard_weight: float = 1.0
    logit_weight: float = 0.0
    label_smoothing: float = 0.0
    warmup_share: float = 0.25
    largest_gradient: float | None = None
    precision: Precision = "float32"
    optimiser: Literal["sgd", "adam"] = "sgd"


@dataclass(frozen=True)
class Normalisation:
    """Pixels to network inputs: (pixel / 255 - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float32, channels last."""
        mean, std = tuple(self.mean), tuple(self.std)
        shift, scale = _shift_and_scale(mean, std, images.device)
        inputs = images.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(shift, inputs, scale)


@lru_cache(maxsize=64)  # an accelerator would wait for these at each batch
def _shift_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What is added to a byte's multiple, and the multiple, (C, 1, 1) each."""
    shift = -torch.tensor(mean) / torch.tensor(std)
    scale = torch.tensor(std).mul_(255).reciprocal_()
    return shift.view(-1, 1, 1).to(device), scale.view(-1, 1, 1).to(device)


@dataclass(frozen=True)
class Views:
    """Each image of a split in several augmented forms, with a teacher's logits.

    So students see augmented images, and no batch needs the teacher.
    """

    augmentation: Augmentation
    changes: Tensor  # (V, 3, N) int64
    logits: Tensor  # (V, N, classes)

    def pick(
        self, images: Tensor, positions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One form of each image of a batch, and its logits, (B, classes)."""
        count = len(self.changes)
        chosen = torch.randint(count, (len(images),), generator=generator)
        chosen = chosen.to(positions.device)
        changes = self.changes[chosen, :, positions].T
        logits = self.logits[chosen, positions]
        return self.augmentation.apply(images, changes), logits


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; the accelerator if there is one, else the CPU, for None.

    Raises:
        ValueError: There is no such device.
    """
    available = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        available.append(accelerator.type)
    if name is None:
        return torch.device(available[-1])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise ValueError(
            f"unknown device {str(name)!r}; available: {', '.join(available)}"
        )
    return device


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Torch's generators seeded inside, as they were before afterwards.

    Gives a CPU generator of its own for what takes one.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        # Not torch.manual_seed: that would seed every accelerator for good.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.get_device_module(device).manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


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


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes with this precision.

    Without torch's cache of weights: inside another such context it is not cleared at
    the end of this one, and a training would go on with the weights of its first step.
    """
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=precision == "bfloat16",
        cache_enabled=False,
    )


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


@torch.no_grad()
def recompute_statistics(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    positions: Tensor | None = None,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> None:
    """Batch-norm statistics anew: their mean over the batches of a split.

    Args:
        positions: Of the images to use, (M,) int64; all by default.
    """
    norms = [
        m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
        norm.train()
    # Of a size: each counts alike, and a last one of few images would count too much.
    count = len(split) if positions is None else len(positions)
    size = math.ceil(count / math.ceil(count / batch_size))
    for images, _, _ in split.batches(size, positions) if norms else ():
        if len(images) > 1:
            with autocast(split.device, precision):
                network(normalise(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def compute_logits(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> Tensor:
    """(N, classes) in eval mode, float32, on the split's device."""
    network.eval()
    found = []
    for images, _, _ in split.batches(batch_size):
        with autocast(split.device, precision):
            found.append(network(normalise(images)).float())
    return torch.cat(found)


def compute_accuracy(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> float:
    """The share of images it classifies right, in [0, 1]."""
    answers = predict(
        network, split, normalise, precision=precision, batch_size=batch_size
    )
    return (answers == split.labels.cpu()).double().mean().item()


def predict(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> Tensor:
    """The class it takes each image for, (N,) int64, on the CPU."""
    outputs = compute_logits(
        network, split, normalise, precision=precision, batch_size=batch_size
    )
    return outputs.argmax(1).cpu()
