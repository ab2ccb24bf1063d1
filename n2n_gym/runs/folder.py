"""The folder of a run: the options, and all results so far.

A stopped run can always be resumed. The options and the students' scores determine
every decision, so a resumed run makes all decisions again from the start. Scores in
``history.jsonl`` and in the store are looked up, not measured again. After the last
known score, the run continues with new students.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from n2n_gym.common.files import read_json, write_whole
from n2n_gym.networks.reading import STUDENT as STUDENT
from n2n_gym.resources.machine import processor
from n2n_gym.runs.elapsed import ELAPSED, counted
from n2n_gym.runs.history import History
from n2n_gym.runs.options import Options

FORMAT: Final = 2  # version of the folder
OPTIONS: Final = "options.toml"
ABOUT: Final = "run.json"
HISTORY: Final = "history.jsonl"
SUMMARY: Final = "summary.json"  # written last
REPORT: Final = "report.html"
TEACHER: Final = "teacher.json"  # architectures
WEIGHTS: Final = "student.safetensors"
ONNX: Final = "student.onnx"
FINALISTS: Final = "finalists"  # weights, until the run is finished
POLICY: Final = "{agent}-{stage}.policy.pt"  # the file of a stage's policy
LOCK: Final = ".lock"
# Options that may change when a run is resumed: they do not affect its results.
INCIDENTAL: Final = frozenset({"output", "workers", "store", "train_teacher"})


@dataclass(frozen=True)
class Run:
    """A run folder that only this process uses.

    Attributes:
        seconds: Function that returns the seconds of the run so far, over all its
            processes.
    """

    options: Options
    history: History
    seconds: Callable[[], float]

    @property
    def folder(self) -> Path:
        return self.options.output


def is_finished(folder: Path) -> bool:
    """Whether the folder has a finished run."""
    return (folder / SUMMARY).is_file()


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        ValueError: The file is damaged.
    """

    def checked(found: dict[str, Any]) -> dict[str, Any]:
        _ = found["teacher"], found["student"], found["limits"]
        return found

    return read_json(folder / SUMMARY, checked)


@contextmanager
def open_run(options: Options, began: float | None = None) -> Iterator[Run]:
    """Context with the run in ``options.output``, begun now or earlier.

    Args:
        began: Time, by ``time.monotonic``, at which this process took up the run; None
            for now.

    Raises:
        FileExistsError: The folder has other files, or a run with other options.
        BlockingIOError: Another process uses the folder.
        OSError: The folder cannot be written.
        ValueError: The folder's run is damaged or has another format.
    """
    began = time.monotonic() if began is None else began
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / OPTIONS).exists():
        if others := {path.name for path in folder.iterdir() if not _is_ours(path)}:
            raise FileExistsError(
                f"{folder} is not empty and holds no run: it has {min(others)}; give "
                f"another output folder"
            )
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{folder} is in use by another process") from None
    with lock:
        for left in folder.glob("*.part"):
            left.unlink()  # left by a process that was killed
        if (folder / OPTIONS).exists():
            check_same(options)
        else:
            write_whole(folder / ABOUT, json.dumps(about(), indent=1).encode())
            write_whole(folder / OPTIONS, options.to_toml().encode())
        history = History(folder / HISTORY)
        with closing(history), counted(folder / ELAPSED, began) as seconds:
            yield Run(options, history, seconds)


def _is_ours(path: Path) -> bool:
    """Whether a run that is killed at its start can leave a file with this name."""
    return path.name in (LOCK, ABOUT) or path.suffix == ".part"


def about() -> dict[str, Any]:
    """Versions, and the processor, that a result depends on."""
    return {
        "format": FORMAT,
        "n2n_gym": version("n2n-gym"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "onnxruntime")},
        "machine": processor(),
    }


def check_machine(folder: Path) -> None:
    """Raise a ValueError if a folder's run began on another processor."""
    began, here = read_json(folder / ABOUT, lambda made: made["machine"]), processor()
    if began != here:
        raise ValueError(
            f"{folder} has limits on resources that were measured on another machine "
            f"({began}; this is {here}); resume it there, or start anew in another "
            f"folder"
        )


def check_format(folder: Path) -> None:
    """Raise a ValueError if a folder's run is damaged or has another format."""
    found, by = read_json(
        folder / ABOUT, lambda made: (made["format"], made["n2n_gym"])
    )
    if found != FORMAT:
        raise ValueError(
            f"{folder} holds a run of format {found}, made by n2n-gym {by}; this "
            f"version reads {FORMAT}. Give another output folder"
        )


def check_same(options: Options) -> None:
    """Check that the run in ``options.output`` has these options.

    Only ``INCIDENTAL`` options may differ.

    Raises:
        FileExistsError: The run has other options.
        ValueError: The run is damaged or has another format.
    """
    folder = options.output
    check_format(folder)
    before, now = (asdict(each) for each in (Options.read(folder / OPTIONS), options))
    changed = [
        f"{name} was {before[name]!r}, is {now[name]!r}"
        for name in now
        if before[name] != now[name] and name not in INCIDENTAL
    ]
    if changed:
        raise FileExistsError(
            f"{folder} holds another run: {'; '.join(changed)}. Give another output "
            f"folder, or the same options"
        )


def resumed(folder: Path, changes: dict[str, Any]) -> Options:
    """The options of the run in a folder, for resuming the run.

    Args:
        changes: New values of options, by name. Only ``INCIDENTAL`` options other than
            ``output`` can change.

    Raises:
        ValueError: There is no run, or another option would change.
    """
    if fixed := sorted(changes.keys() - (INCIDENTAL - {"output"})):
        raise ValueError(
            f"a resumed run keeps its options; leave out {', '.join(fixed)}"
        )
    path = folder / OPTIONS
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {OPTIONS}")
    check_format(folder)
    return replace(Options.read(path), output=folder, **changes)


def fresh_folder(path: Path) -> Path:
    """Delete a folder, which a resumed run writes again; return the path."""
    if path.exists():
        shutil.rmtree(path)
    return path
