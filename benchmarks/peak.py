"""A training step's time, compared with the time of only its matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Conv, DepthwiseConv, Linear
from n2n_gym.pytorch.training import train
from n2n_gym.teachers.teacher import Teacher

CPU = torch.device("cpu")


def wall_seconds(work: Callable[..., object], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def products_of(student: Architecture, position: int, batch: int, dtype: torch.dtype):
    """Functions that compute the matrix products of a layer in a training step.

    They give the outputs, the gradient of the weights and, except in the first layer,
    the gradient of the inputs.
    """
    layer = student.layers[position]
    shape = student.shape_of(layer.inputs[0])
    x = torch.randn(batch, *shape).to(dtype)
    if isinstance(layer, Linear):
        w = torch.randn(layer.width, shape[0]).to(dtype)
        g = torch.randn(batch, layer.width).to(dtype)
        return [lambda: x @ w.T, lambda: g.T @ x, lambda: g @ w]
    assert isinstance(layer, (Conv, DepthwiseConv))
    x = x.to(memory_format=torch.channels_last)
    groups = layer.groups if isinstance(layer, Conv) else shape[0]
    width = student.shape_of(position)[0]
    w = torch.randn(width, shape[0] // groups, *layer.kernel).to(dtype)
    w = w.to(memory_format=torch.channels_last)
    sizes = (layer.stride, layer.padding, layer.dilation)
    g = torch.randn_like(F.conv2d(x, w, None, *sizes, groups))

    def backward(*wanted: bool) -> None:
        torch.ops.aten.convolution_backward(
            *(g, x, w, None, *sizes, False, (0, 0), groups), (*wanted, False)
        )

    works = [
        lambda: F.conv2d(x, w, None, *sizes, groups),
        lambda: backward(False, True),
        lambda: backward(True, False),
    ]
    return works[:2] if position == student.first else works


def products(student: Architecture, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Total seconds of a step's products, timed one by one, and the best FLOP/s."""
    rows = []
    for position, layer in enumerate(student.layers):
        if isinstance(layer, (Conv, DepthwiseConv, Linear)):
            flops = 2 * student.macs_per_layer[position] * batch
            for work in products_of(student, position, batch, dtype):
                work()
                seconds = statistics.median(wall_seconds(work) for _ in range(5))
                rows.append((seconds, flops / seconds))
    return {
        "seconds": sum(seconds for seconds, _ in rows),
        "best": max(rate for _, rate in rows),
    }


def best_matmul(dtype: torch.dtype) -> float:
    """FLOP/s of the product of two large square matrices."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    seconds = statistics.median(wall_seconds(lambda: a @ b) for _ in range(7))
    return 2 * 2048**3 / seconds


def step_seconds(student: Architecture, teacher: Teacher, settings: Settings) -> float:
    """Median seconds of one training step."""
    assert FULL.recipe is not None
    recipe = replace(FULL.recipe, epochs=1, precision=settings.precision)
    split = teacher.task.split("train", CPU)
    network = teacher.inheritance(CPU).build(student)
    network = network.to(memory_format=torch.channels_last)
    ends: list[float] = []
    logits = teacher.logits(CPU)
    train(
        network,
        split,
        teacher.normalise,
        replace(recipe, epochs=16 * recipe.batch_size / len(split)),
        torch.Generator().manual_seed(0),
        logits=logits,
        after_step=lambda: ends.append(time.perf_counter()),
    )
    return statistics.median(np.diff(ends)[3:])
