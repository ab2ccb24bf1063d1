"""A run taken up again: its teacher, and any student that it scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from n2n_gym.architecture import Architecture
from n2n_gym.evaluators import InProcess
from n2n_gym.finalists import Finalists, Finished, Scored
from n2n_gym.runs import HISTORY, Options, read_history, resumed
from n2n_gym.teachers import Teacher
from n2n_gym.training import pick_device


@dataclass(frozen=True)
class Revisited:
    """The run in a folder, finished or not."""

    options: Options

    @classmethod
    def open(cls, folder: Path) -> Revisited:
        """Raises ValueError where there is no run."""
        return cls(resumed(folder, {}))

    @cached_property
    def device(self) -> torch.device:
        return pick_device(self.options.device)

    @cached_property
    def teacher(self) -> Teacher:
        return self.options.load_teacher(self.device)

    def student(self, prefix: str) -> Architecture:
        """The one that was scored whose fingerprint begins so.

        Raises:
            ValueError: There is none, or more than one.
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
        """The student as the run would have distilled it in the end."""
        epochs, store = self.options.final_epochs, self.options.open_store()
        final = Finalists(self.teacher, epochs, self.device, InProcess(), store)
        return final.choose([Scored(0.0, student)], student.fingerprint[:8])
