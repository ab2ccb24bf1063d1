"""Folders for data and for cached results, and atomic writing of files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import platformdirs
from filelock import FileLock

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Errors from reading a damaged file.
DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError)

_full: Final[set[Path]] = set()  # folders that had a warning


def data_folder() -> Path:
    """The folder of data sets: ``$N2N_DATA``, or a folder in the cache."""
    named = os.environ.get("N2N_DATA")
    return Path(named) if named else cache_folder() / "data"


def cache_folder() -> Path:
    """The folder for cached results: ``$N2N_CACHE``, or the user's cache folder."""
    named = os.environ.get("N2N_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("n2n-gym"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Context with a lock on a file of the cache, for which other processes wait.

    If the lock's file cannot be written, there is no lock. The file of the cache then
    cannot be written either.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
            for left in path.parent.glob(f"{escape(path.stem)}.*.part"):
                left.unlink()  # left by a process that was killed
        yield


@contextmanager
def kept_if_possible(path: Path) -> Iterator[None]:
    """Context in which a cache file is written; an OSError becomes a warning.

    There is at most one warning per folder.
    """
    try:
        yield
    except OSError as error:
        if path.parent not in _full:
            _full.add(path.parent)
            logger.warning(
                "%s cannot be kept: %s. The run goes on without", path, error
            )


def read_kept(path: Path, read: Callable[[Path], T], *beside: Path) -> T | None:
    """The content of a file; None if it is missing or, with a warning, damaged.

    Args:
        path: The file.
        read: Function that reads the file, and raises one of `DAMAGED` if the file is
            damaged.
        beside: Other files with parts of the content. If one of them exists, ``path``
            counts as damaged when it is missing.
    """
    if not any(each.exists() for each in (path, *beside)):
        return None
    try:
        return read(path)
    except DAMAGED as error:
        logger.warning("%s is damaged (%s) and is made anew", path, error)
        return None


def cached(
    path: Path,
    read: Callable[[Path], T],
    make: Callable[[], T],
    write: Callable[[Path, T], object],
    *beside: Path,
) -> T:
    """The content of a cache file: read, otherwise made, and stored if possible.

    A second process waits, then reads the result of the first process. `read_kept`
    does the reading, so a damaged file is made again.
    """
    with locked(path):
        found = read_kept(path, read, *beside)
        if found is None:
            found = make()
            with kept_if_possible(path):
                write(path, found)
    return found


def read_json(path: Path, take: Callable[[Any], T]) -> T:
    """The content of a JSON file of a run.

    Args:
        path: The file.
        take: Function from the parsed content to the result; raises one of `DAMAGED`
            if something is missing.

    Raises:
        ValueError: The file is missing or damaged.
    """
    try:
        return take(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, even in a crash."""
    with written_whole(path) as file:
        file.write(content)


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Context to write a new file; the complete file then replaces the old one."""
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
    """Wait until the file's content is on disk."""
    file.flush()
    os.fsync(file.fileno())
