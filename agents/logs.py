"""The progress of a training as files: TensorBoard's, CSV, JSON lines.

They are written by the logger of Stable-Baselines3, so that REINFORCE's curves lie
beside those of its agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agents.reinforce import Update

FORMATS: Final = ("csv", "json", "tensorboard")


def check_formats(formats: Sequence[str]) -> None:
    """Raise a ValueError if one is unknown, or needs a package that is not there."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
        # Stable-Baselines3 does not ask for TensorBoard.
        package = "tensorboard" if name == "tensorboard" else "stable_baselines3"
        if find_spec(package) is None:
            raise ValueError(
                f'logs need the package {package}; pip install "n2n-gym[logs]"'
            )


@contextmanager
def log_updates(
    folder: str | Path, formats: Sequence[str] = FORMATS
) -> Iterator[Callable[[Update], None]]:
    """What ``reinforce.train`` takes as ``on_update``, while the files are open.

    A training that goes on tells of all its updates again, so that the files are whole
    after a stop: ``progress.csv``, ``progress.json`` (a line an update), and
    TensorBoard's.

    Raises:
        ValueError: A format is unknown, or needs a package that is not there.
    """
    check_formats(formats)
    from stable_baselines3.common.logger import configure  # an extra

    logger = configure(str(folder), list(formats))

    def log(update: Update) -> None:
        for name, value in update._asdict().items():
            logger.record(f"reinforce/{name}", value)
        logger.dump(update.number)

    try:
        yield log
    finally:
        logger.close()
