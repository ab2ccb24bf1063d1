"""Access to an earlier run: its teacher, and every student that it scored."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from n2n_gym.compression.assessment import Parity, compare_files
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import Fixed
from n2n_gym.compression.plan import PLAN, final_epochs
from n2n_gym.compression.student_files import Finished, figure, write_student
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.export.formats import CALIBRATED_BY, FORMATS, Exported, say_accuracy
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.saving import load_network
from n2n_gym.runs.folder import (
    HISTORY,
    ONNX,
    STUDENT,
    SUMMARY,
    TEACHER,
    WEIGHTS,
    is_finished,
    resumed,
)
from n2n_gym.runs.history import read_history
from n2n_gym.runs.identity import check_unchanged
from n2n_gym.runs.options import Options
from n2n_gym.teachers.teacher import Teacher


@dataclass(frozen=True)
class Revisited:
    """The run in a folder, finished or not."""

    options: Options

    @classmethod
    def open(cls, folder: Path) -> Revisited:
        """The run in a folder.

        Raises:
            ValueError: The folder has no run.
        """
        return cls(resumed(folder, {}))

    @cached_property
    def device(self) -> torch.device:
        return pick_device(self.options.device)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher that the run began with.

        Raises:
            ValueError: The run's options now give another teacher, or other images.
        """
        teacher = self.options.load_teacher(self.device)
        check_unchanged(self.options, teacher)
        return teacher

    def student(self, prefix: str) -> Architecture:
        """The scored student with a fingerprint that begins with this prefix.

        Raises:
            ValueError: No fingerprint begins with the prefix, or more than one does.
        """
        path = self.options.output / HISTORY
        found = {
            line["fingerprint"]: line["student"]
            for line in read_history(path)
            if line["fingerprint"].startswith(prefix)
        }
        if len(found) != 1:
            how_many = "no student" if not found else f"more than one ({len(found)})"
            raise ValueError(
                f"{path} has {how_many} whose fingerprint begins with {prefix!r}"
            )
        return Architecture.from_json(next(iter(found.values())))

    def finish(self, student: Architecture) -> Finished:
        """The student, distilled as the run distils its finalists."""
        store = self.options.open_store()
        epochs: float = self.options.final_epochs
        if self.options.is_timed:
            epochs = final_epochs(self.options.output / PLAN)
        _ = self.teacher.trained
        check_unchanged(self.options, self.teacher)  # it may have been trained again
        # A student that is asked for by name need not keep the run's limits.
        requirements = Requirements.read(self.teacher.architecture, {})
        final = Finalists(
            self.teacher,
            Fixed(epochs),
            self.device,
            InProcess(),
            store,
            requirements,
            precision=self.options.precision,
        )
        return final.choose([Scored(0.0, student)], student.fingerprint[:8])

    def chosen(self) -> Network:
        """The network of the student that the run chose.

        Raises:
            ValueError: The run is not finished, or one of the student's files is
                missing.
        """
        folder = self.options.output
        if not is_finished(folder):
            raise ValueError(
                f"{folder} holds no finished run: there is no {SUMMARY}; name one of "
                f"the students that were scored"
            )
        for name in (STUDENT, WEIGHTS, ONNX):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} lacks {name}; the run is damaged")
        student = Architecture.from_json((folder / STUDENT).read_text())
        return load_network(student, folder / WEIGHTS)

    def export(
        self, prefix: str | None, place: Path | None, formats: Sequence[str]
    ) -> list[Parity]:
        """Write a student in several formats, and compare each file with the network.

        Args:
            prefix: Beginning of the student's fingerprint; None for the chosen student.
            place: Output folder. By default, this is the run's folder for the chosen
                student, and a subfolder of the run's folder for another student.
            formats: Names of further formats, from ``FORMATS``.
        """
        folder = self.options.output
        if prefix is None:
            network, place = self.chosen(), place or folder
            if place.resolve() != folder.resolve():
                place.mkdir(parents=True, exist_ok=True)
                for name in (TEACHER, STUDENT, WEIGHTS, ONNX):
                    shutil.copyfile(folder / name, place / name)
        else:
            student = self.student(prefix)
            place = place or folder / "exports" / student.fingerprint[:12]
            place.mkdir(parents=True, exist_ok=True)
            finished = self.finish(student)
            write_student(finished, self.teacher, place)
            network = finished.network
        images = self.teacher.task.splits["train"].images
        generator = torch.Generator().manual_seed(0)
        some = torch.randperm(len(images), generator=generator)[:CALIBRATED_BY]
        source = Exported(
            network,
            self.teacher.normalise,
            place / ONNX,
            images[some.to(images.device)].cpu(),
        )
        paths = [place / ONNX]
        for name in formats:
            file, write = FORMATS[name]
            write(source, place / file)
            paths.append(place / file)
        whole, *others = compare_files(paths, network, self.teacher)
        name = figure("test", self.teacher.task)
        return [
            whole,
            *(_noted(row, name) for row in others),
        ]  # the first file already states its accuracy


def _noted(row: Parity, name: str) -> Parity:
    """Add a file's accuracy to its ONNX metadata; return the row with the new size.

    Files in other formats, and their rows, stay unchanged.

    Args:
        name: Metadata key of the accuracy.
    """
    if row.path.suffix != ".onnx":
        return row
    say_accuracy(row.path, row.accuracy, name)
    num_bytes = row.path.stat().st_size
    return row._replace(bytes=num_bytes, size=row.size * num_bytes / row.bytes)
