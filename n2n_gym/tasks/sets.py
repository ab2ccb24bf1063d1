"""Published data sets of small images, by name."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from n2n_gym.common.files import cache_folder, data_folder, locked
from n2n_gym.networks.layers import Shape
from n2n_gym.tasks.arrays import Arrays, Labelled, three_ways, with_validation
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.npz import from_npz
from n2n_gym.tasks.task import Task

_DIGITS: Final = tuple(string.digits)
_CLOTHES: Final = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KANA: Final = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# A letter that looks the same in both cases is one class.
_CHARACTERS: Final = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_CIFAR10: Final = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100: Final = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
    bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
    cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest
    fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
    palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
    raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm""".split()  # noqa: SIM905
)
_VALIDATE: Final = 500  # validation images per class of cifar10x16
_NONE: Final = Augmentation()
_OBJECTS: Final = Augmentation(padding=4, flip=True)
_GREY: Final = "28x28 grey images, light on dark, as torchvision gives them"
_RGB: Final = "32x32 RGB images, as torchvision gives them"


def digits() -> Task:
    """scikit-learn's 1,797 real 8x8 images of handwritten digits, split 60/20/20."""

    def read() -> Arrays:
        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        return three_ways(images, bunch.target)

    return Task(
        "digits",
        (1, 8, 8),
        10,
        read,
        class_names=_DIGITS,
        preprocessing="8x8 grey images, as scikit-learn gives them, times 255/16",
    )


def mnist() -> Task:
    """MNIST: 70,000 handwritten digits.

    A tenth of the training images is for validation.
    """
    return _published("mnist", "MNIST", (1, 28, 28), _DIGITS, _NONE, _GREY)


def fashion_mnist() -> Task:
    """Fashion-MNIST: 70,000 articles of clothing.

    A tenth of the training images is for validation.
    """
    name, dataset = "fashion_mnist", "FashionMNIST"
    return _published(name, dataset, (1, 28, 28), _CLOTHES, _NONE, _GREY)


def kmnist() -> Task:
    """Kuzushiji-MNIST: 70,000 cursive Japanese characters in 10 classes.

    A tenth of the training images is for validation.
    """
    return _published("kmnist", "KMNIST", (1, 28, 28), _KANA, _NONE, _GREY)


def emnist() -> Task:
    """EMNIST, balanced: 131,600 digits and letters in 47 classes.

    A tenth of the training images is for validation.
    """

    def upright(data: Any) -> Labelled:
        images, labels = _labelled(data)
        return images.transpose(0, 2, 1), labels

    return _published(
        "emnist",
        "EMNIST",
        (1, 28, 28),
        _CHARACTERS,
        _NONE,
        f"{_GREY}, but upright (torchvision's are transposed)",
        parts=[{"split": "balanced", "train": is_train} for is_train in (True, False)],
        labelled=upright,
    )


def cifar10() -> Task:
    """CIFAR-10: from ``$N2N_DATA/cifar10.npz`` if it exists, else from torchvision."""
    local = data_folder() / "cifar10.npz"
    if local.exists():
        return replace(
            from_npz(local, name="cifar10"),
            class_names=_CIFAR10,
            augmentation=_OBJECTS,
            preprocessing=_RGB,
        )
    return _published("cifar10", "CIFAR10", (3, 32, 32), _CIFAR10, _OBJECTS, _RGB)


def cifar10x16() -> Task:
    """CIFAR-10 averaged to 16x16 pixels, the images of N2N-Bench.

    Images are sorted by the SHA-256 of the averaged image, and the first 500 of each
    class are for validation. So any copy of the data set gives the same splits.
    """

    def read() -> Arrays:
        given = cifar10().read()
        parts = given["train"], given["validation"]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        images, labels = _by_content(_halved(images), labels)
        place = np.empty(len(labels), np.int64)  # an image's rank in its class
        for each in np.unique(labels):
            place[labels == each] = np.arange((labels == each).sum())
        is_validation = place < _VALIDATE
        return {
            "train": (images[~is_validation], labels[~is_validation]),
            "validation": (images[is_validation], labels[is_validation]),
            "test": _by_content(_halved(given["test"][0]), given["test"][1]),
        }

    return Task(
        "cifar10x16",
        (3, 16, 16),
        10,
        read,
        class_names=_CIFAR10,
        augmentation=Augmentation(padding=2, flip=True),
        preprocessing="16x16 RGB images: CIFAR-10's, 2x2 pixels averaged, halves up",
    )


def _halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average each 2x2 pixels of images, (N, H, W, C); halves are rounded up."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    sums = squares.sum((2, 4), dtype=np.uint16)
    means: NDArray[np.uint8] = ((sums + 2) // 4).astype(np.uint8)
    return means


def _by_content(images: NDArray[np.uint8], labels: NDArray[Any]) -> Labelled:
    """The images and labels, sorted by the images' SHA-256."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return images[order], labels[order]


def cifar100() -> Task:
    """CIFAR-100: 60,000 photographs of 100 things.

    A tenth of the training images is for validation.
    """
    return _published("cifar100", "CIFAR100", (3, 32, 32), _CIFAR100, _OBJECTS, _RGB)


def svhn() -> Task:
    """SVHN: 99,289 digits of house numbers.

    A tenth of the training images is for validation.
    """

    def labelled(data: Any) -> Labelled:
        return data.data.transpose(0, 2, 3, 1), data.labels

    return _published(
        "svhn",
        "SVHN",
        (3, 32, 32),
        _DIGITS,
        Augmentation(padding=4),  # a mirrored digit is no digit
        _RGB,
        parts=({"split": "train"}, {"split": "test"}),
        labelled=labelled,
    )


def _labelled(data: Any) -> Labelled:
    return np.asarray(data.data), np.asarray(data.targets)


def _published(
    name: str,
    dataset: str,
    input_shape: Shape,
    class_names: tuple[str, ...],
    augmentation: Augmentation,
    preprocessing: str,
    *,
    parts: Iterable[dict[str, Any]] = ({"train": True}, {"train": False}),
    labelled: Callable[[Any], Labelled] = _labelled,
) -> Task:
    """A data set of torchvision; a tenth of its training images is for validation.

    Args:
        parts: Arguments of torchvision's data set, for training and for test.
        labelled: Function that takes images and labels from torchvision's object.
    """

    def read() -> Arrays:
        train, test = from_torchvision(dataset, *parts)
        return with_validation(labelled(train), labelled(test))

    return Task(
        name,
        input_shape,
        len(class_names),
        read,
        class_names=class_names,
        augmentation=augmentation,
        preprocessing=preprocessing,
    )


def from_torchvision(name: str, *parts: dict[str, Any]) -> list[Any]:
    """Parts of torchvision's data set of this name, downloaded if necessary.

    Args:
        parts: Arguments of the data set, for each part.
    """
    import torchvision  # slow to import, and needed here only

    root = data_folder()
    dataset = getattr(torchvision.datasets, name)
    # A second process waits for the first one's download.
    with locked(cache_folder() / name):
        try:
            return [dataset(root, download=True, **part) for part in parts]
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{name} is not in {root} and could not be downloaded ({error}); put "
                f"torchvision's files there, or set N2N_DATA to the folder with them"
            ) from error
