"""A student in other formats: half precision, 8-bit integers, torch's own format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import Tensor

from n2n_gym.common.files import write_whole
from n2n_gym.export.onnx import FromPixels, plain
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.inputs import Normalisation

CALIBRATED_BY: Final = 512  # training images, for the ranges of 8-bit activations
BATCH: Final = 64
# Metadata of a float32 file that is wrong for other formats.
OF_FLOAT32: Final = ("validation_accuracy", "test_accuracy", "reward")

# Images in [0, 1], (B, C, H, W) float32, to logits, (B, classes).
Model: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """The input of a conversion: a student that is already written as ONNX.

    Attributes:
        path: The float32 ONNX file.
        images: Images of the training split to calibrate with, (N, C, H, W) uint8.
    """

    network: Network
    normalise: Normalisation
    path: Path
    images: Tensor


def write_float16(source: Exported, path: Path) -> None:
    """Write ONNX in half precision; inputs and logits stay float32.

    The file has half the size of the float32 file. ONNX Runtime's CPU provider still
    computes in float32.
    """
    model = convert_float_to_float16(onnx.load(source.path), keep_io_types=True)
    OnnxModel(model).topological_sort()  # the converter puts its casts last
    _write(model, source, path)


def write_int8(source: Exported, path: Path) -> None:
    """Write ONNX with 8-bit weights and activations, by static quantisation.

    Weights have one scale per channel. Training images determine the range of each
    activation.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(source.path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Images(source.images[:CALIBRATED_BY]),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        model = onnx.load(quantised)
    _write(model, source, path)


def _write(model: onnx.ModelProto, source: Exported, path: Path) -> None:
    """Write a model, with the float32 file's metadata except accuracies and reward."""
    about = _said(onnx.load(source.path))
    for name in OF_FLOAT32:
        about.pop(name, None)
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def say_accuracy(path: Path, accuracy: float, name: str = "test_accuracy") -> None:
    """Add an ONNX file's measured test accuracy to its metadata, under this name."""
    model = onnx.load(path)
    about = {**_said(model), name: f"{accuracy:.4f}"}
    onnx.helper.set_model_props(model, about)
    write_whole(path, model.SerializeToString())


def _said(model: onnx.ModelProto) -> dict[str, str]:
    return {x.key: x.value for x in model.metadata_props}


class _Images(CalibrationDataReader):  # type: ignore[misc] # it has no types
    """Batches of real images for the calibration."""

    def __init__(self, images: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(torch.split(images, BATCH))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": (batch.cpu() / 255).numpy()}


def write_program(source: Exported, path: Path) -> None:
    """Write the student as a ``torch.export`` program, for ``torch.export.load``."""
    module = FromPixels(plain(source.network), source.normalise).eval()
    pixels = source.images[:2].cpu().float() / 255
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: batch},))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        torch.export.save(program, written)
        write_whole(path, written.read_bytes())


def load_model(path: Path) -> Model:
    """Load an exported file as a function that computes on the CPU.

    The function maps images in [0, 1], (B, C, H, W), to logits, (B, classes).

    Raises:
        ValueError: The file's suffix is none of a known format.
    """
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            (logits,) = session.run(None, {"pixels": pixels})
            found: NDArray[np.float32] = logits
            return found

        return run
    if path.suffix != ".pt2":
        raise ValueError(f"{path} is not an exported model; known: .onnx, .pt2")
    module: Any = torch.export.load(path).module()

    @torch.no_grad()
    def forward(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
        return found

    return forward


# Files that are written beside student.onnx and student.safetensors, by format.
FORMATS: Final[Mapping[str, tuple[str, Callable[[Exported, Path], None]]]] = {
    "float16": ("student.float16.onnx", write_float16),
    "int8": ("student.int8.onnx", write_int8),
    "torch": ("student.pt2", write_program),
}


def check_formats(formats: str) -> list[str]:
    """The formats named in a comma-separated string.

    Raises:
        ValueError: A format is unknown.
    """
    names = [name.strip() for name in formats.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    return names
