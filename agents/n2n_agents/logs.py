"""Logs of a training, as files or in tracking services.

The logger of Stable-Baselines3 writes CSV, JSON lines and TensorBoard files, so
REINFORCE's curves can be compared with those of that library's agents. Weights & Biases
and MLflow are used through their own libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from n2n_agents.reinforce import Episode, Update

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

# The package that each format needs.
FORMATS: Final = {
    "csv": "stable_baselines3",
    "json": "stable_baselines3",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
FILES: Final = ("csv", "json", "tensorboard")
PROJECT: Final = "n2n-gym"  # in the services, unless an environment variable names one
# Numbers of the best student, from the last info of its episode.
FIGURES: Final = ("accuracy", "num_params", "num_macs", "compression")

# Function that draws the student of a last info, (H, W, 3) uint8.
Picture = Callable[[Mapping[str, Any]], NDArray[np.uint8]]


def check_formats(formats: str | Sequence[str]) -> list[str]:
    """A list of the names of formats, given as a list or as one string with commas.

    Raises:
        ValueError: A format is unknown, or needs a package that is not installed.
    """
    if isinstance(formats, str):
        formats = [name.strip() for name in formats.split(",") if name.strip()]
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
        for package in ("stable_baselines3", FORMATS[name]):
            if find_spec(package) is None:
                extra = name if name in ("wandb", "mlflow") else "logs"
                raise ValueError(
                    f"logs as {name} need the package {package}; pip install "
                    f'"n2n-gym[{extra}]"'
                )
    return list(formats)


class Log:
    """Callbacks for ``reinforce.train``: the log itself, and its method ``episode``.

    The log, as ``on_update``, writes the updates' scalars. The method, as
    ``on_episode``, adds a histogram of rewards, and the best student's numbers and
    picture. A resumed training reports its earlier updates again, but not their
    episodes.
    """

    def __init__(self, logger: Logger, picture: Picture | None) -> None:
        self._logger = logger
        self._picture = picture
        self._rewards: list[float] = []
        self._best = float("-inf")

    def episode(self, episode: Episode) -> None:
        """Remember an episode for the next update."""
        from stable_baselines3.common.logger import Image

        self._rewards.append(episode.reward)
        if episode.reward <= self._best:
            return
        self._best = episode.reward
        self._logger.record("best/reward", episode.reward)
        for name in FIGURES:
            if name in episode.info:
                self._logger.record(f"best/{name}", episode.info[name])
        if self._picture is not None:
            drawn = Image(self._picture(episode.info), "HWC")
            self._logger.record("best/student", drawn, exclude=("csv", "json"))

    def __call__(self, update: Update) -> None:
        self._best = max(self._best, update.best_reward)
        for name, value in update._asdict().items():
            self._logger.record(f"reinforce/{name}", value)
        if self._rewards:
            rewards = torch.tensor(self._rewards)
            self._logger.record("rewards", rewards, exclude=("csv", "json"))
            self._rewards.clear()
        self._logger.dump(update.number)


@contextmanager
def log_updates(
    folder: str | Path,
    formats: Sequence[str] = FILES,
    *,
    picture: Picture | None = None,
) -> Iterator[Log]:
    """A log with files that are open inside the context.

    The files are ``progress.csv``, ``progress.json`` (one line per update), and
    TensorBoard's. They are complete even in a new folder, because a resumed training
    reports all its updates again. In the tracking services, a resumed training
    continues its earlier run and adds only the missing updates. A file beside the
    folder has the id of this run.

    Args:
        picture: Function that draws the best students, for formats with pictures.

    Raises:
        ValueError: A format is unknown, or needs a package that is not installed.
    """
    check_formats(formats)
    from stable_baselines3.common.logger import configure  # an extra

    logger = configure(str(folder), [name for name in formats if name in FILES])
    writers = {"wandb": _wandb, "mlflow": _mlflow}
    for name in formats:
        if name in writers:
            logger.output_formats.append(writers[name](Path(folder)))
    try:
        yield Log(logger, picture)
    finally:
        logger.close()


def _kept_id(folder: Path, service: str, make: Callable[[], str]) -> str:
    """The id of a folder's run in the service; made at the first use."""
    path = folder.with_name(f"{folder.name}.{service}-id")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(make())
        part.replace(path)  # complete or not at all, even if interrupted
    return path.read_text()


def _wandb(folder: Path) -> Any:
    """A writer to a run of Weights & Biases, which is named after the folder."""
    import wandb
    from stable_baselines3.common.logger import Image, KVWriter

    class Writer(KVWriter):
        def __init__(self) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(
                project=PROJECT,
                name=str(folder),
                dir=folder,
                id=_kept_id(folder, "wandb", partial(token_hex, 8)),
                resume="allow",
            )
            self.known = self.run.step - 1  # `step` is the next one

        def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
            if step <= self.known:
                return
            shown = {}
            for name, value in key_values.items():
                if isinstance(value, Image):
                    value = wandb.Image(value.image)
                elif isinstance(value, torch.Tensor):
                    value = wandb.Histogram(value.tolist())
                shown[name] = value
            self.run.log(shown, step=step)

        def close(self) -> None:
            self.run.finish()

    return Writer()


def _mlflow(folder: Path) -> Any:
    """A writer to a run of MLflow, which is named after the folder."""
    import mlflow
    from stable_baselines3.common.logger import Image, KVWriter

    class Writer(KVWriter):
        def __init__(self) -> None:
            client = mlflow.MlflowClient()
            experiment = mlflow.set_experiment(PROJECT).experiment_id

            def make() -> str:
                run = client.create_run(experiment, run_name=str(folder))
                return str(run.info.run_id)

            self.run = mlflow.start_run(run_id=_kept_id(folder, "mlflow", make))
            told = client.get_run(self.run.info.run_id).data.metrics
            self.known = told.get("reinforce/number", 0)

        def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
            if step <= self.known:
                return
            numbers = {}
            for name, value in key_values.items():
                if isinstance(value, Image):
                    mlflow.log_image(np.asarray(value.image), key=name, step=step)
                elif not isinstance(value, torch.Tensor):
                    numbers[name] = float(value)
            mlflow.log_metrics(numbers, step=step)

        def close(self) -> None:
            mlflow.end_run()

    return Writer()
