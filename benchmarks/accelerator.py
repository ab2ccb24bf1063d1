"""How much latency and energy uniform width saves on an accelerator.

    python -m benchmarks.accelerator

A ResNet-18 for 32x32 images is compared with narrower copies that have a half, a fifth,
a tenth and a twentieth of its parameters, with all widths at one rate. Latency is
measured in torch, for one image and for 256, in turns with the teacher. For one image,
the latency of a CUDA graph is measured too, which excludes Python's time to start the
kernels. Energy is read from NVML's counter, in batches of 256, and needs
`pip install -e ".[nvml]"`. Takes one minute.
"""

from __future__ import annotations

import torch

from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.resources.accelerator import AcceleratorEnergy, TorchLatency
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture

SHARES = (1, 2, 5, 10, 20)
BATCH = 256


def main() -> None:
    device = pick_device(None)
    if device.type != "cuda":
        raise SystemExit(f"this measures an NVIDIA GPU; torch finds {device}")
    teacher = teacher_architecture("resnet18", Task("images", (3, 32, 32), 10, dict))
    resources = {
        "ms of 1": TorchLatency(seconds=6.0),
        "graph of 1": TorchLatency(graph=True, seconds=6.0),
        f"ms of {BATCH}": TorchLatency(batch=BATCH, seconds=6.0),
        "mJ": AcceleratorEnergy(batch=BATCH),
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32")
    names = ("params", "MACs", *resources)
    print(f"{'uniform':10}" + "".join(f"{name:>18}" for name in names))
    wholes: list[float] = []
    for share in SHARES:
        student = uniform_student(teacher, teacher.num_params // share)
        taken = [student.num_params, student.num_macs]
        taken += [measure(student, teacher) for measure in resources.values()]
        wholes = wholes or taken
        cells = [f"{n:11.4g} {n / w:6.3f}" for n, w in zip(taken, wholes, strict=True)]
        print(f"{'1/' + str(share):10}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
