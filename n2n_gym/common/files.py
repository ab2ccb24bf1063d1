"""Folders that data and what is made of them are kept in, and files written whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, Final

import platformdirs
from filelock import FileLock

logger = logging.getLogger(__name__)

_full: Final[set[Path]] = set()  # folders that a warning was given of


def data_folder() -> Path:
    """Where data sets are looked for and downloaded to: ``N2N_DATA`` or the cache."""
    named = os.environ.get("N2N_DATA")
    return Path(named) if named else cache_folder() / "data"


def cache_folder() -> Path:
    """Where what is made once is kept: ``N2N_CACHE`` or the user's cache folder."""
    named = os.environ.get("N2N_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("n2n-gym"))


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Who else wants this file of the cache waits until it is made.

    Nobody waits where no lock can be written: then neither can the file, most likely.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
            for left in path.parent.glob(f"{escape(path.stem)}.*.part"):
                left.unlink()  # by a process that was killed
        yield


@contextmanager
def kept_if_possible(path: Path) -> Iterator[None]:
    """Inside, a file of the cache is written; where it cannot be, that is said.

    It is said of each folder once.
    """
    try:
        yield
    except OSError as error:
        if path.parent not in _full:
            _full.add(path.parent)
            logger.warning(
                "%s cannot be kept: %s. The run goes on without", path, error
            )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, even after a crash."""
    with written_whole(path) as file:
        file.write(content)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its place when all of it is on the disk."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            yield file
            to_disk(file)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def to_disk(file: IO[Any]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())
