"""From your own network and images to a small ONNX file.

    python examples/own_network.py                  # 4 minutes, or another number

The teacher is named "module:function", the task is an .npz file or a folder of images.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import n2n_gym
from n2n_gym.compression.pipeline import compress
from n2n_gym.runs.options import Options

MINUTES = sys.argv[1] if len(sys.argv) > 1 else "4"


def network(task: n2n_gym.Task) -> nn.Module:
    layers: list[nn.Module] = []
    width = task.input_shape[0]
    for wider in (32, 64, 64):
        convolution = nn.Conv2d(width, wider, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(wider), nn.ReLU()]
        width = wider
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.num_classes))
    return nn.Sequential(*layers, *head)


def images(path: Path) -> Path:
    """Your own images, bytes of shape (N, H, W) or (N, H, W, 3), as an .npz file."""
    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    train = {"train_images": pixels[:1400], "train_labels": digits.target[:1400]}
    test = {"test_images": pixels[1400:], "test_labels": digits.target[1400:]}
    np.savez(path, **train, **test)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/own")
    folder.mkdir(parents=True, exist_ok=True)
    task = str(images(folder / "digits-of-mine.npz"))
    chosen = {"output": folder / "run", "minutes": MINUTES}
    found = compress(Options("own_network:network", task, **chosen))
    times = found.teacher.num_params / found.student.student.num_params
    print(f"{times:.0f}x smaller, {found.student.test_accuracy:.1%} of the test images")
