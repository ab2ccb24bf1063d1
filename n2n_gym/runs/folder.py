"""The folder of a run: what it was asked for, and all that it has found so far.

A run that was stopped, however, goes on from there. All of a run follows from its
options and its students' scores; so it is played again from the start, which takes no
time where the scores are known from ``history.jsonl`` and from the store, and goes on
where they end.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from n2n_gym.common.files import write_whole
from n2n_gym.networks.reading import STUDENT as STUDENT
from n2n_gym.resources.machine import processor
from n2n_gym.runs.history import History
from n2n_gym.runs.options import Options

if sys.version_info >= (3, 11):
    pass
else:
    pass

FORMAT: Final = 2  # of the folder
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
# Options that a run may change when it goes on: they change nothing that it finds.
INCIDENTAL: Final = frozenset({"output", "workers", "store", "train_teacher"})


@dataclass(frozen=True)
class Run:
    """A run folder that is this process' alone."""

    options: Options
    history: History

    @property
    def folder(self) -> Path:
        return self.options.output


def is_finished(folder: Path) -> bool:
    """Whether it holds a run that has come to its end."""
    return (folder / SUMMARY).is_file()


def read_summary(folder: Path) -> dict[str, Any]:
    """What a finished run found; ValueError where the file is damaged."""
    path = folder / SUMMARY
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = found["teacher"], found["student"], found["limits"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return found


@contextmanager
def open_run(options: Options) -> Iterator[Run]:
    """The folder ``options.output``: new, or of a run of the same options to go on.

    Raises:
        FileExistsError: It holds something else.
        BlockingIOError: Another process is at it.
        OSError: It cannot be written.
        ValueError: Its run is of another format.
    """
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / OPTIONS).exists():
        if others := {path.name for path in folder.iterdir() if not _is_ours(path)}:
            raise FileExistsError(
                f"{folder} is not empty and holds no run (but {min(others)}); give "
                f"another output folder"
            )
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{folder}: another process is at this run") from None
    with lock:
        for left in folder.glob("*.part"):
            left.unlink()  # by a process that was killed
        if (folder / OPTIONS).exists():
            check_same(options)
        else:
            write_whole(folder / ABOUT, json.dumps(about(), indent=1).encode())
            write_whole(folder / OPTIONS, options.to_toml().encode())
        history = History(folder / HISTORY)
        try:
            yield Run(options, history)
        finally:
            history.close()


def _is_ours(path: Path) -> bool:
    """Whether a file may be left by a run that was killed as it began."""
    return path.name in (LOCK, ABOUT) or path.suffix == ".part"


def about() -> dict[str, Any]:
    """Versions that a result depends on."""
    return {
        "format": FORMAT,
        "n2n_gym": version("n2n-gym"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "onnxruntime")},
        "machine": processor(),
    }


def check_machine(folder: Path) -> None:
    """Raise a ValueError if a folder's run began on a machine of another processor."""
    began, here = json.loads((folder / ABOUT).read_text())["machine"], processor()
    if began != here:
        raise ValueError(
            f"{folder} has a limit on what was measured on another machine ({began}; "
            f"this is {here}): it goes on there, or begins anew in another folder"
        )


def check_format(folder: Path) -> None:
    """Raise a ValueError if a folder's run is of another format, or damaged."""
    path = folder / ABOUT
    try:
        made = json.loads(path.read_text())
        found, by = made["format"], made["n2n_gym"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if found != FORMAT:
        raise ValueError(
            f"{folder} holds a run of format {found}, made by n2n-gym {by}; this "
            f"version reads {FORMAT}. Give another output folder"
        )


def check_same(options: Options) -> None:
    """The folder's run is one of these options.

    Raises:
        FileExistsError: It is another.
        ValueError: It is of another format.
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
    """What the run in a folder was asked for, to go on.

    Args:
        changes: Of workers and store, the options that may.

    Raises:
        ValueError: It holds no run, or something else is to change.
    """
    if fixed := sorted(changes.keys() - (INCIDENTAL - {"output"})):
        raise ValueError(
            f"a run goes on with the options it has; leave out {', '.join(fixed)}"
        )
    path = folder / OPTIONS
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {OPTIONS}")
    check_format(folder)
    return replace(Options.read(path), output=folder, **changes)


def fresh_folder(path: Path) -> Path:
    """A folder of what is written anew when a run goes on."""
    if path.exists():
        shutil.rmtree(path)
    return path
