"""A student as files that others can use."""

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
# Where torch's own rounding is large, ONNX Runtime's may be so many times as large.
ROUNDINGS: Final = 10
OPSET: Final = 20  # the default of torch's exporter; every current runtime reads it


class FromPixels(nn.Module):
    """A network with its normalisation in front: takes pixels in [0, 1]."""

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
    """Check a network as ONNX Runtime has it against torch, and write its ONNX file.

    It takes ``pixels``, (B, C, H, W) float32 in [0, 1], of any batch size, normalises
    them itself, and gives ``logits``, (B, classes).

    Args:
        images: Real ones to check it with, (N, C, H, W) uint8, N >= 2.
        about: Becomes the file's metadata.

    Returns:
        The largest difference between the logits of ONNX Runtime and of torch.

    Raises:
        RuntimeError: They differ by more than 1e-4, and by more than rounding explains:
            ten times what torch's own differ from those in double precision.
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
    if largest > allowed:  # channels that hardly vary, normalised, magnify rounding
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
    """The largest difference of torch's logits from those in double precision."""
    exact = copy.deepcopy(module).double()(pixels.double())
    return float((module(pixels) - exact).abs().max())


def untrained_onnx(architecture: Architecture) -> bytes:
    """An ONNX file of a network with random weights, as good as any for a clock."""
    channels = architecture.input_shape[0]
    as_is = Normalisation((0.0,) * channels, (1.0,) * channels)
    network = build(architecture)
    for values in network.state_dict().values():
        # No trained file has the ones and zeros that normalisation begins with. The
        # exporter stores equal tensors once; and with a mean of zero a convolution
        # would be left without a bias, which ONNX Runtime fuses otherwise.
        if values.is_floating_point() and (values == values.flatten()[0]).all():
            values.uniform_(0.5, 1.5)
    module = FromPixels(plain(network), as_is).eval()
    model = _to_onnx(module, torch.zeros(2, *architecture.input_shape))
    content: bytes = model.SerializeToString()
    return content


def plain(network: Network) -> Network:
    """On the CPU, in the layout that exporters expect."""
    return network.cpu().to(memory_format=torch.contiguous_format)


def _to_onnx(module: nn.Module, pixels: Tensor) -> onnx.ModelProto:
    """The module as a graph, for batches of any size.

    Args:
        pixels: An example, of two images or more.
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
    """Rid a graph of the exporter's notes: traces of its code, paths, every shape.

    A small student's notes would be larger than its weights.
    """
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:]
    for noted in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
