"""Right answers of networks, image by image, as results store them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from n2n_gym.pytorch.inference import predict
from n2n_gym.teachers.teacher import Teacher


def right_answers(
    network: torch.nn.Module, teacher: Teacher, split: str
) -> NDArray[np.bool_]:
    """Whether a network is right about each image of a split, on the CPU, (N,)."""
    images = teacher.task.split(split, torch.device("cpu"))
    said = predict(network.cpu(), images, teacher.normalise)
    return (said == images.labels).numpy()


def packed(right: NDArray[np.bool_]) -> str:
    """Right answers as text, a bit for each image."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, num_images: int) -> NDArray[np.float64]:
    """What ``packed`` has written: 1 for each right answer, otherwise 0, (N,)."""
    bits = np.frombuffer(bytes.fromhex(text), np.uint8)
    return np.unpackbits(bits)[:num_images].astype(float)
