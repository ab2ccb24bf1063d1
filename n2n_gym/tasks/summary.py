"""Statistics of all images, in one pass over memory maps of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from n2n_gym.common.progress import progress
from n2n_gym.tasks.arrays import SPLITS, Statistics
from n2n_gym.tasks.split import Split

_CHUNK_BYTES: Final = 2**25


class ImageSummary(NamedTuple):
    """Statistics that are kept with images, because reading all images takes long."""

    fingerprint: str
    normalisation: Statistics


def compute_normalisation(images: Tensor) -> Statistics:
    """Mean and standard deviation of each channel, for pixels in [0, 1].

    Images are (N, C, H, W) uint8. Standard deviations are at least 0.001.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in _chunks(images, "Statistics of the training images"):
        channels = chunk.transpose(0, 1).flatten(1)  # (C, n*H*W)
        counts += torch.stack([torch.bincount(c, minlength=256) for c in channels])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1e-3).tolist())


def compute_fingerprint(splits: Mapping[str, Split]) -> str:
    """SHA-256 of the data in all splits."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for tensor in (splits[name].images, splits[name].labels):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            for chunk in _chunks(tensor, f"Fingerprint of the {name} images"):
                digest.update(chunk.contiguous().numpy().data)
    return digest.hexdigest()


def _chunks(tensor: Tensor, title: str) -> Iterator[Tensor]:
    per_row = tensor[0].nbytes
    with progress(len(tensor) * per_row, title, "B") as bar:
        for chunk in torch.split(tensor, max(1, _CHUNK_BYTES // per_row)):
            yield chunk
            bar.update(len(chunk) * per_row)
