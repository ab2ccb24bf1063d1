"""A task: a data set with its three disjoint splits.

Torch is imported when the images are first read: an environment whose scores need none
never does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from n2n_gym.common.plugins import is_picklable
from n2n_gym.networks.layers import Shape
from n2n_gym.tasks.arrays import (
    SPLITS,
    Arrays,
    check_classes,
    check_images,
    check_labels,
    check_layout,
    check_splits,
)
from n2n_gym.tasks.augmentation import Augmentation

if TYPE_CHECKING:
    import torch

    from n2n_gym.tasks.arrays import Statistics
    from n2n_gym.tasks.split import Split
    from n2n_gym.tasks.summary import Summary


@dataclass(frozen=True, eq=False)
class Task:
    """What a teacher has learned: images with labels, split three ways.

    The teacher learns from ``train``, rewards come from ``validation``; ``test`` is
    read once, for a final student.

    Attributes:
        input_shape: Of one image, (C, H, W).
        read: Gives each split as uint8 images, (N, H, W) or (N, H, W, C), and integer
            labels, (N,); called once, at the first use. Images may be a memory map
            (``numpy.load(path, mmap_mode="c")``), which is never read whole.
        class_names: In the order of the labels, where they are known.
        augmentation: Of training images.
        preprocessing: How an image file becomes such an image, for those who use the
            networks elsewhere.
        resident_bytes: How large images that are kept on a device may be, larger ones
            are streamed there; half of the memory that is free on it by default.
        summary: Gives what is known of the data without reading them all, if anything.
        grey: The task whose images these are, each repeated to three channels.

    Raises:
        ValueError: There are more or fewer class names than classes, an attribute is
            of another type, or ``read`` is no function. At the first use: the data are
            not as described, or a class is missing from a split.
    """

    name: str
    input_shape: Shape
    num_classes: int
    read: Callable[[], Arrays] = field(repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    augmentation: Augmentation = field(default_factory=Augmentation)
    preprocessing: str = "images as the task reads them"
    resident_bytes: int | None = None
    summary: Callable[[], Summary] | None = field(default=None, repr=False)
    grey: Task | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.read):
            raise ValueError(
                f"task {self.name}: read is a function without arguments that gives "
                f"the images, got {type(self.read).__name__}"
            )
        try:  # numpy's integers too
            channels, height, width = map(operator.index, self.input_shape)
            count = operator.index(self.num_classes)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"task {self.name}: input_shape is (channels, height, width) and "
                f"num_classes an integer, got {self.input_shape!r} and "
                f"{self.num_classes!r}"
            ) from error
        names = self.class_names
        if isinstance(names, str) or not all(isinstance(n, str) for n in names or ()):
            raise ValueError(
                f"task {self.name}: class_names are texts, one a class, got {names!r}"
            )
        object.__setattr__(self, "input_shape", (channels, height, width))
        object.__setattr__(self, "num_classes", count)
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"task {self.name} has {self.num_classes} classes and "
                f"{len(self.class_names)} class names"
            )

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """All data, in memory or in memory maps."""
        from n2n_gym.tasks.split import as_split

        if self.grey is not None:
            return {
                name: replace(split, images=split.images.expand(-1, 3, -1, -1))
                for name, split in self.grey.splits.items()
            }
        arrays = self.read()
        self._check(arrays)
        return {name: as_split(*arrays[name]) for name in SPLITS}

    def _check(self, arrays: Arrays) -> None:
        where = f"task {self.name}"
        check_splits(where, arrays)
        for split in SPLITS:
            images, labels = arrays[split]
            check_images(where, split, images)
            check_labels(where, split, labels, len(images))
            height, width, channels = (*images.shape[1:], 1)[:3]
            if (channels, height, width) != self.input_shape:
                check_layout(where, split, images)
                raise ValueError(
                    f"{where}: {split}_images are {(channels, height, width)}, its "
                    f"input_shape {self.input_shape}"
                )
        labels_of = {split: arrays[split][1] for split in SPLITS}
        check_classes(where, labels_of, self.num_classes, self.class_names)

    @cached_property
    def normalisation(self) -> Statistics:
        """Mean and deviation of each channel of the training images, in [0, 1]."""
        from n2n_gym.tasks.summary import compute_normalisation

        if self.summary is not None:
            return self.summary().normalisation
        return compute_normalisation(self.splits["train"].images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data in all splits."""
        from n2n_gym.tasks.summary import compute_fingerprint

        if self.summary is not None:
            return self.summary().fingerprint
        return compute_fingerprint(self.splits)

    def split(self, name: str, device: torch.device) -> Split:
        """The split on a device, where it stays for the next call if it fits."""
        key = name, str(device)
        if key not in self._placed:
            self._placed[key] = self.splits[name].on(device, self.resident_bytes)
        return self._placed[key]

    @cached_property
    def _placed(self) -> dict[tuple[str, str], Split]:
        return {}

    def in_colour(self) -> Task:
        """The task with its grey images in three equal channels, on the same data.

        Raises:
            ValueError: Its images are not grey.
        """
        if self.input_shape[0] != 1:
            raise ValueError(
                f"task {self.name} has {self.input_shape[0]} channels; only grey "
                f"images, of one, can be repeated"
            )
        return replace(
            self,
            input_shape=(3, *self.input_shape[1:]),
            preprocessing=f"{self.preprocessing}, repeated to three equal channels",
            summary=None,
            grey=self,
        )

    @classmethod
    def of_splits(
        cls,
        name: str,
        input_shape: Shape,
        num_classes: int,
        splits: Mapping[str, Split],
        *,
        augmentation: Augmentation,
        resident_bytes: int | None,
    ) -> Task:
        """A task of splits that were checked before; perhaps not of all three."""
        task = cls(
            name,
            input_shape,
            num_classes,
            read=dict,
            augmentation=augmentation,
            resident_bytes=resident_bytes,
        )
        task.__dict__["splits"] = splits  # where the cached property keeps them
        return task

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: the attributes, and images that are in memory.

        Images are read now, and all go there, where `read` cannot.
        """
        from n2n_gym.tasks.summary import Summary

        state = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.grey is not None:  # it has the images
            return state | {"read": dict}
        splits = self.__dict__.get("splits", {})
        is_in_memory = any(not split.is_streamed for split in splits.values())
        can_go = is_picklable(self.read) and is_picklable(self.summary)
        if is_in_memory or not can_go:
            arrays = {name: split.arrays() for name, split in self.splits.items()}
            state["read"] = partial(dict, arrays)
            if self.summary is not None:
                found = Summary(self.fingerprint, self.normalisation)
                state["summary"] = partial(Summary, *found)
        return state
