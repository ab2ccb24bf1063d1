"""Resources measured on an accelerator, with the student in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.resources.measured import SECONDS_OF_ENERGY, Latency

WARM_UP: Final = 3  # uncounted batches: libraries are loaded and kernels chosen


@dataclass(frozen=True)
class TorchLatency(Latency):
    """Milliseconds per batch in torch on a device.

    Attributes:
        sessions: Number of times the student is built; the slowest build counts.
        device: Name of the device: "cuda", "mps", "cpu", ...
        graph: Whether to run the student as one CUDA graph (only on "cuda"), so that
            the time excludes Python. Without a graph, a small batch takes as long as
            Python needs to start all kernels, however narrow the layers are.
    """

    sessions: int = 1
    device: str = "cuda"
    graph: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        there = ["cpu"]
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is not None:
            count = torch.accelerator.device_count()
            each = [f"{accelerator.type}:{index}" for index in range(count)]
            there += [accelerator.type, *each]
        if self.device not in there:
            raise ValueError(
                f"this machine has no device {self.device!r}; it has {', '.join(there)}"
            )
        if self.graph and torch.device(self.device).type != "cuda":
            raise ValueError(f"graph=True needs device='cuda', got {self.device!r}")

    def _run(
        self, network: Architecture, *, anew: bool = False
    ) -> Callable[[], object]:
        device = torch.device(self.device)
        module = build(network, device).eval()
        pixels = torch.zeros(self.batch, *network.input_shape, device=device)

        @torch.inference_mode()
        def start() -> None:
            module(pixels)

        def run_on_cpu() -> None:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            start()
            torch.set_num_threads(before)

        if device.type == "cpu":
            return run_on_cpu
        kernels = _captured(start, device) if self.graph else start

        def run() -> None:
            kernels()
            torch.accelerator.synchronize(device)

        return run


class _Graph(NamedTuple):
    """A CUDA graph; a call starts all its kernels."""

    graph: torch.cuda.CUDAGraph
    reads: Callable[[], object]  # keeps alive the weights and pixels they read

    def __call__(self) -> None:
        self.graph.replay()


def _captured(start: Callable[[], object], device: torch.device) -> _Graph:
    """The kernels that a function starts on a CUDA device, as one graph."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):  # keeps first-time work out of the graph
                start()
        with torch.cuda.graph(graph, stream=stream):
            start()

    return _Graph(graph, start)


@dataclass(frozen=True)
class AcceleratorEnergy:
    """Energy of an NVIDIA accelerator in millijoules per image, in torch.

    NVML's energy counter is read with nvidia-ml-py (``pip install n2n-gym[nvml]``).

    Attributes:
        batch: Number of images in each batch.
        index: Index of the accelerator in torch's numbering.
    """

    batch: int = 64
    index: int = 0
    is_of_machine: ClassVar[bool] = True

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        import pynvml

        run = TorchLatency(batch=self.batch, device=f"cuda:{self.index}")._run(student)
        pynvml.nvmlInit()
        try:
            # NVML's indices ignore CUDA_VISIBLE_DEVICES.
            name = torch.cuda.get_device_properties(self.index).uuid
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{name}")
            for _ in range(WARM_UP):
                run()
            before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            ends, count = time.perf_counter() + SECONDS_OF_ENERGY, 0
            while time.perf_counter() < ends:
                run()
                count += self.batch
            spent = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
        finally:
            pynvml.nvmlShutdown()
        return float(spent) / count
