"""Exporting a student as ONNX."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.inputs import Normalisation

TOLERANCE: Final = 1e-4  # between ONNX Runtime's logits and torch's
# ONNX Runtime's rounding error may be this many times torch's own.
ROUNDINGS: Final = 10
OPSET: Final = 20  # the default of torch's exporter; every current runtime reads it


class FromPixels(nn.Module):
    """A network that first normalises its inputs, pixels in [0, 1]."""

    def __init__(self, network: Network, normalise: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.mean = nn.Buffer(torch.tensor(normalise.mean).view(-1, 1, 1))
        self.std = nn.Buffer(torch.tensor(normalise.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def export_onnx(
    network: Network,
    normalise: Normalisation,
    images: Tensor,
    path: Path,
    about: Mapping[str, str],
) -> float:
    """Write a network as ONNX, after comparing ONNX Runtime's logits with torch's.

    The file takes ``pixels``, (B, C, H, W) float32 in [0, 1], for any batch size. Its
    graph includes the normalisation and returns ``logits``, (B, classes).

    Args:
        network: The network to export.
        normalise: The normalisation of the network's inputs.
        images: Real images for the comparison, (N, C, H, W) uint8, N >= 2.
        path: The file to write.
        about: Metadata of the file.

    Returns:
        The largest difference between the logits of ONNX Runtime and of torch.

    Raises:
        RuntimeError: Logits differ by more than 1e-4, and by more than ten times the
            rounding error of torch's own logits (see ``rounding``).
    """
    module = FromPixels(plain(network), normalise).eval()
    pixels = images.cpu().float() / 255
    model = _to_onnx(module, pixels[:2])
    onnx.helper.set_model_props(
        model,
        {
            **about,
            "output": "logits: float32 (batch, classes), unnormalised; the largest is "
            "the class",
            "input": "pixels: float32 (batch, channels, height, width) in [0, 1]",
            "normalisation": (
                f"part of the graph: (pixels - mean) / std, by channel, with mean "
                f"{normalise.mean} and std {normalise.std}"
            ),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (pixels[:1], pixels):
        (found,) = session.run(None, {"pixels": batch.numpy()})
        with torch.no_grad():
            expected = module(batch).numpy()
        largest = max(largest, float(np.abs(found - expected).max()))
    allowed = TOLERANCE
    if largest > allowed:  # normalising channels that hardly vary magnifies rounding
        allowed = max(allowed, ROUNDINGS * rounding(module, pixels))
    if largest > allowed:
        raise RuntimeError(
            f"{path}: ONNX Runtime's logits differ from torch's by {largest:.1e}, more "
            f"than {allowed:.0e}"
        )
    write_whole(path, content)
    return largest


@torch.no_grad()
def rounding(module: nn.Module, pixels: Tensor) -> float:
    """The largest difference of torch's float32 logits from float64 logits."""
    exact = copy.deepcopy(module).double()(pixels.double())
    return float((module(pixels) - exact).abs().max())


def untrained_onnx(architecture: Architecture) -> bytes:
    """The content of an ONNX file with random weights, to measure its latency."""
    channels = architecture.input_shape[0]
    as_is = Normalisation((0.0,) * channels, (1.0,) * channels)
    network = build(architecture)
    for values in network.state_dict().values():
        # Normalisation begins with ones and zeros, which no trained file has. The
        # exporter stores equal tensors once. With a mean of zero, a convolution would
        # also lose its bias, and ONNX Runtime would fuse it differently.
        if values.is_floating_point() and (values == values.flatten()[0]).all():
            values.uniform_(0.5, 1.5)
    module = FromPixels(plain(network), as_is).eval()
    model = _to_onnx(module, torch.zeros(2, *architecture.input_shape))
    content: bytes = model.SerializeToString()
    return content


def plain(network: Network) -> Network:
    """Move a network to the CPU, in place, with the layout that exporters expect."""
    return network.cpu().to(memory_format=torch.contiguous_format)


def _to_onnx(module: nn.Module, pixels: Tensor) -> onnx.ModelProto:
    """The module as a graph, for batches of any size.

    Args:
        pixels: An example batch of two or more images, (B, C, H, W).
    """
    program = torch.onnx.export(
        module,
        (pixels,),
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _strip(model)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: code traces, paths, shapes of intermediate values.

    In a small student's file, these notes would be larger than the weights.
    """
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:]
    for noted in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
