"""What uniform width saves on an accelerator: parameters mislead, and so do MACs.

    python -m benchmarks.accelerator

ResNet-18 at 32x32 and its channels all shrunk by one rate to a half, a fifth, a tenth
and a twentieth of its parameters; each share is of the teacher's. Latency in torch, one
image (also as a CUDA graph, without what Python takes to start the kernels) and 256, in
turns with the teacher; energy by NVML's counter, which needs
`pip install -e ".[nvml]"`, in batches of 256. One minute.
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
