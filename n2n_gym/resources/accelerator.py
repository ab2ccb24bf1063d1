"""Resources that are measured on an accelerator, of a student in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.resources.measured import SECONDS_OF_ENERGY, Latency

WARM_UP: Final = 3  # batches, while libraries are loaded and kernels chosen


@dataclass(frozen=True)
class TorchLatency(Latency):
    """Milliseconds that torch takes for a batch on a device.

    Attributes:
        sessions: How often the student is built; the slowest counts.
        device: "cuda", "mps", "cpu", ...
        graph: On "cuda", as one CUDA graph: what the device alone takes. Else small
            batches take as long as Python needs to start all kernels, whatever widths
            the network has.
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
    """Kernels that are started together."""

    graph: torch.cuda.CUDAGraph
    reads: Callable[[], object]  # has the weights and pixels that they read

    def __call__(self) -> None:
        self.graph.replay()


def _captured(start: Callable[[], object], device: torch.device) -> _Graph:
    """The kernels that it starts on a CUDA device, as one graph."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):  # what libraries do the first time is not of it
                start()
        with torch.cuda.graph(graph, stream=stream):
            start()

    return _Graph(graph, start)


@dataclass(frozen=True)
class AcceleratorEnergy:
    """Millijoules of an NVIDIA accelerator for one image, in batches, in torch.

    From the counter of NVML, through nvidia-ml-py (``pip install n2n-gym[nvml]``).

    Attributes:
        batch: Images in each.
        index: Which accelerator, as torch counts them.
    """

    batch: int = 64
    index: int = 0

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        import pynvml

        run = TorchLatency(batch=self.batch, device=f"cuda:{self.index}")._run(student)
        pynvml.nvmlInit()
        try:
            # NVML's indices know nothing of CUDA_VISIBLE_DEVICES.
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
