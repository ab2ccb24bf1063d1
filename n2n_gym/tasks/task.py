"""A task: a data set with three disjoint splits.

Torch is imported when the images are first read, so an environment that scores without
images never imports it.
"""

from __future__ import annotations

import hashlib
import logging
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
    are_equal,
    check_classes,
    check_images,
    check_labels,
    check_layout,
    check_splits,
    check_unlabelled,
    fill_labels,
)
from n2n_gym.tasks.augmentation import Augmentation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from n2n_gym.tasks.arrays import Statistics
    from n2n_gym.tasks.split import Split
    from n2n_gym.tasks.summary import ImageSummary

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Task:
    """A data set, usually with labels, in three splits.

    Networks learn from ``train``, rewards come from ``validation``, and ``test`` is
    read only for finished networks.

    Attributes:
        input_shape: Shape of one image, (C, H, W).
        read: Function that returns each split as images and labels; called once, at the
            first use. Images are uint8, (N, H, W) or (N, H, W, C). Labels are integers,
            (N,), or None in ``unlabelled`` splits. Images may be a memory map
            (``numpy.load(path, mmap_mode="c")``), which is never read whole.
        class_names: Names of the classes in the order of the labels; None if unknown.
        augmentation: Random changes of training images.
        preprocessing: Description of how an image file becomes an input, for users of
            the exported networks.
        resident_bytes: Largest size of images that are kept on a device; larger ones
            are streamed. By default half of the device's free memory.
        summary: Function that returns the fingerprint and the normalisation without
            reading all data. Without it, they are computed from the data.
        grey: For a task that ``in_colour`` made, the task with grey images.
        num_classes: Number of classes. If no split has labels, it can be 0, which
            stands for the teacher's number of classes.
        unlabelled: Names of the splits without labels: ("train",), or all three.
        answers: Function that returns the teacher's predicted classes for unlabelled
            splits, (N,) int64 each; see ``answered``. Without it, the labels of
            unlabelled splits are -1.
        unanswered: For a task that ``answered`` made, the task without predictions.

    Raises:
        ValueError: The number of class names is not the number of classes, an attribute
            has the wrong type, or ``read`` is not a function. At the first use: the
            data do not match the description, or a split lacks a class.
    """

    name: str
    input_shape: Shape
    num_classes: int
    read: Callable[[], Arrays] = field(repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    augmentation: Augmentation = field(default_factory=Augmentation)
    preprocessing: str = "images as the task reads them"
    resident_bytes: int | None = None
    summary: Callable[[], ImageSummary] | None = field(default=None, repr=False)
    grey: Task | None = field(default=None, repr=False)
    unlabelled: tuple[str, ...] = ()
    answers: Callable[[], Mapping[str, Tensor]] | None = field(default=None, repr=False)
    unanswered: Task | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.read):
            raise ValueError(
                f"task {self.name}: read must be a function without arguments that "
                f"returns the images, got {type(self.read).__name__}"
            )
        try:  # numpy's integers too
            channels, height, width = map(operator.index, self.input_shape)
            count = operator.index(self.num_classes)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"task {self.name}: input_shape must be (channels, height, width) and "
                f"num_classes an integer, got {self.input_shape!r} and "
                f"{self.num_classes!r}"
            ) from error
        check_unlabelled(f"task {self.name}", self.unlabelled)
        names = self.class_names
        if isinstance(names, str) or not all(isinstance(n, str) for n in names or ()):
            raise ValueError(
                f"task {self.name}: class_names must be one string per class, got "
                f"{names!r}"
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
        """The three splits with all data, in memory or in memory maps."""
        from n2n_gym.tasks.split import as_split

        if self.unanswered is not None and self.answers is not None:
            found = self.answers()
            return {
                name: replace(split, labels=found[name]) if name in found else split
                for name, split in self.unanswered.splits.items()
            }
        if self.grey is not None:
            return {
                name: replace(split, images=split.images.expand(-1, 3, -1, -1))
                for name, split in self.grey.splits.items()
            }
        where = f"task {self.name}"
        # The checks convert to arrays.
        arrays: Any = fill_labels(where, self.read(), self.unlabelled)
        self._check(arrays)
        return {name: as_split(*arrays[name]) for name in SPLITS}

    def _check(self, arrays: Arrays) -> None:
        where = f"task {self.name}"
        check_splits(where, arrays)
        for split in SPLITS:
            images, labels = arrays[split]
            check_images(where, split, images)
            if are_equal(images):
                logger.warning(
                    "%s: all %d %s images are equal", where, len(images), split
                )
            check_labels(
                where, split, labels, len(images), is_known=split not in self.unlabelled
            )
            height, width, channels = (*images.shape[1:], 1)[:3]
            if (channels, height, width) != self.input_shape:
                check_layout(where, split, images)
                raise ValueError(
                    f"{where}: {split}_images are {(channels, height, width)}, its "
                    f"input_shape {self.input_shape}"
                )
        labels_of = {s: arrays[s][1] for s in SPLITS if s not in self.unlabelled}
        if labels_of:
            check_classes(where, labels_of, self.num_classes, self.class_names)

    @cached_property
    def normalisation(self) -> Statistics:
        """Mean and standard deviation of the training images' channels, in [0, 1]."""
        from n2n_gym.tasks.summary import compute_normalisation

        if self.unanswered is not None:
            return self.unanswered.normalisation
        if self.summary is not None:
            return self.summary().normalisation
        return compute_normalisation(self.splits["train"].images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data in all splits, and of predictions that replace labels.

        So a score on a teacher's predictions never passes for a score on labels, even
        if the predictions equal the labels.
        """
        from n2n_gym.tasks.summary import compute_fingerprint

        if self.unanswered is not None:
            digest = hashlib.sha256(self.unanswered.fingerprint.encode())
            for name in self.unlabelled:
                digest.update(self.splits[name].labels.cpu().numpy().data)
            return digest.hexdigest()
        if self.summary is not None:
            return self.summary().fingerprint
        return compute_fingerprint(self.splits)

    def split(self, name: str, device: torch.device) -> Split:
        """The split on a device, where it stays for later calls if it fits."""
        key = name, str(device)
        if key not in self._placed:
            self._placed[key] = self.splits[name].on(device, self.resident_bytes)
        return self._placed[key]

    @cached_property
    def _placed(self) -> dict[tuple[str, str], Split]:
        return {}

    def in_colour(self) -> Task:
        """The same task with each grey image in three equal channels.

        Raises:
            ValueError: The images are not grey.
        """
        if self.input_shape[0] != 1:
            raise ValueError(
                f"task {self.name} has {self.input_shape[0]} channels; only one "
                f"channel, grey, can be repeated"
            )
        return replace(
            self,
            input_shape=(3, *self.input_shape[1:]),
            preprocessing=f"{self.preprocessing}, repeated to three equal channels",
            summary=None,
            grey=self,
        )

    def answered(
        self, num_classes: int, answers: Callable[[], Mapping[str, Tensor]]
    ) -> Task:
        """The task with a teacher's predictions in place of missing labels.

        ``unlabelled`` still names the splits without labels. Accuracy on them is
        agreement with the teacher, and no network is trained on the predictions as
        labels.

        Args:
            num_classes: Number of classes that the teacher knows.
            answers: Function that returns predictions by split; called once, at the
                first use.
        """
        return replace(
            self,
            num_classes=num_classes,
            read=dict,
            summary=None,
            grey=None,
            answers=answers,
            unanswered=self,
        )

    def counts_without_labels(self) -> dict[str, int]:
        """Number of unlabelled images, by split."""
        return {name: len(self.splits[name]) for name in self.unlabelled}

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
        unlabelled: tuple[str, ...] = (),
    ) -> Task:
        """A task made of checked splits; the test split may be missing.

        Args:
            unlabelled: Splits with the teacher's predictions as labels.
        """
        task = cls(
            name,
            input_shape,
            num_classes,
            read=dict,
            augmentation=augmentation,
            resident_bytes=resident_bytes,
            unlabelled=unlabelled,
            answers=dict if unlabelled else None,
        )
        task.__dict__["splits"] = splits  # where the cached property keeps them
        return task

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The attributes for another process, and the images that are in memory.

        If `read` or `summary` cannot be pickled, all images are read now and sent.
        """
        from n2n_gym.tasks.summary import ImageSummary

        state = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.unanswered is not None:  # it has the images
            found = {name: self.splits[name].labels for name in self.unlabelled}
            return state | {"answers": partial(dict, found)}
        if self.grey is not None:  # it has the images
            return state | {"read": dict}
        splits = self.__dict__.get("splits", {})
        is_in_memory = any(not split.is_streamed for split in splits.values())
        can_go = is_picklable(self.read) and is_picklable(self.summary)
        if is_in_memory or not can_go:
            arrays: dict[str, tuple[Any, Any]] = {}
            for name, split in self.splits.items():
                images, labels = split.arrays()
                arrays[name] = images, None if name in self.unlabelled else labels
            state["read"] = partial(dict, arrays)
            if self.summary is not None:
                known = ImageSummary(self.fingerprint, self.normalisation)
                state["summary"] = partial(ImageSummary, *known)
        return state
