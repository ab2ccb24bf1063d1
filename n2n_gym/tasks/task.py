"""A task: a data set with its three disjoint splits.

Torch is imported when the images are first read: an environment whose scores need none
never does.
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
    """What a teacher has learned: images, mostly with labels, split three ways.

    The teacher learns from ``train``, rewards come from ``validation``; ``test`` is
    read once, for a final student.

    Attributes:
        input_shape: Of one image, (C, H, W).
        read: Gives each split as uint8 images, (N, H, W) or (N, H, W, C), and integer
            labels, (N,), or None in ``unlabelled`` splits; called once, at the first
            use. Images may be a memory map
            (``numpy.load(path, mmap_mode="c")``), which is never read whole.
        class_names: In the order of the labels, where they are known.
        augmentation: Of training images.
        preprocessing: How an image file becomes such an image, for those who use the
            networks elsewhere.
        resident_bytes: How large images that are kept on a device may be, larger ones
            are streamed there; half of the memory that is free on it by default.
        summary: Gives what is known of the data without reading them all, if anything.
        grey: The task whose images these are, each repeated to three channels.
        num_classes: 0 where there are no labels: as many as the teacher tells apart.
        unlabelled: The splits without labels: ("train",), or all three.
        answers: The teacher's classes of their images, (N,) int64 each, which stand in
            for labels: see ``answered``. Without them those labels are -1.
        unanswered: The task that ``answered`` was called on.

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
    summary: Callable[[], ImageSummary] | None = field(default=None, repr=False)
    grey: Task | None = field(default=None, repr=False)
    unlabelled: tuple[str, ...] = ()
    answers: Callable[[], Mapping[str, Tensor]] | None = field(default=None, repr=False)
    unanswered: Task | None = field(default=None, repr=False)

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
        check_unlabelled(f"task {self.name}", self.unlabelled)
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
        # The checks are what makes arrays of it.
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
        """Mean and deviation of each channel of the training images, in [0, 1]."""
        from n2n_gym.tasks.summary import compute_normalisation

        if self.unanswered is not None:
            return self.unanswered.normalisation
        if self.summary is not None:
            return self.summary().normalisation
        return compute_normalisation(self.splits["train"].images)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data in all splits, and of the answers that are no labels.

        So no score on a teacher's answers passes for one on labels, even equal ones.
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

    def answered(
        self, num_classes: int, answers: Callable[[], Mapping[str, Tensor]]
    ) -> Task:
        """The task with a teacher's answers where it has no labels.

        ``unlabelled`` still names those splits: accuracy on them is agreement with the
        teacher, and nobody learns them as labels.

        Args:
            num_classes: That the teacher tells apart.
            answers: Gives them, by split; called once, at the first use.
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
        """How many images have none, by split."""
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
        """A task of splits that were checked before; perhaps not of all three.

        Args:
            unlabelled: Those whose labels are the teacher's answers.
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
        """What goes to another process: the attributes, and images that are in memory.

        Images are read now, and all go there, where `read` cannot.
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
