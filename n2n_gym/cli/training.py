"""The commands that train agents, and list them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json, say
from n2n_gym.runs.shared_options import (
    EVALUATOR,
    TASK,
    TEACHER,
    Device,
    EvaluatorName,
    Keep,
    Logs,
    TaskName,
    TeacherName,
    TrainTeacher,
)

# Torch is imported inside the command, so that --help is fast.
if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np
    from numpy.typing import NDArray

    from n2n_agents import reinforce
    from n2n_agents.logs import Log


Stage = Annotated[
    Literal["remove", "shrink"] | None,
    typer.Argument(help="The stage to train for. Leave it out with --suite."),
]
SuiteFile = Annotated[
    str | None,
    typer.Option(
        help="A .toml file of teachers, or `standard`, the suite of the package. Both "
        "policies are trained on all of them. It takes hours and can be resumed."
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(help="An architecture.json from which shrinkage starts."),
]
Reinforce = Annotated[
    Literal["modern", "paper"], typer.Option(help="Settings of REINFORCE.")
]
Updates = Annotated[
    int, typer.Option(min=1, metavar="N", help="Policy updates, 5 students each.")
]
Output = Annotated[Path, typer.Option(help="Folder for the policy and its options.")]
Seed = Annotated[int, typer.Option(help="Random seed of the training.")]


def train(
    stage: Stage = None,
    suite: SuiteFile = None,
    teacher: TeacherName = TEACHER,
    task: TaskName = TASK,
    start: Start = None,
    keep: Keep = None,
    evaluator: EvaluatorName = EVALUATOR,
    settings: Reinforce = "modern",
    updates: Updates = 50,
    output: Output = Path("runs/policy"),
    logs: Logs = "",
    seed: Seed = 0,
    device: Device = None,
    train_teacher: TrainTeacher = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy of REINFORCE, and keep it for other runs.

    `n2n-gym compress --init-policy` starts from it, on any teacher; so do the agents
    reinforce@FILE and frozen@FILE of `n2n-gym compare`. The same command resumes after
    a stop, with the same result to the last bit. With more --updates it trains further.

    With --suite one policy for each stage is trained on many teachers and sizes.
    """
    if suite is not None:
        _train_suite(suite, stage, output, as_json=as_json)
        return
    with plain_errors():
        if stage is None:
            raise ValueError("what to train? Give remove, shrink, or --suite")
        from n2n_agents.logs import check_formats
        from n2n_gym.runs.folder import POLICY

        formats = check_formats(logs)
        if start is not None and stage == "remove":
            raise ValueError("removal starts from the teacher; leave out --start")
        given: dict[str, Any] = {"teacher": teacher, "task": task, "keep": keep}
        given |= {"evaluator": evaluator, "device": device}
        env = _make(stage, given if start is None else {**given, "start": start})
        output.mkdir(parents=True, exist_ok=True)
        path = output / POLICY.format(agent="reinforce", stage=stage)
        subject = f"{stage}, {teacher}, {task}, {evaluator}, from {start}"
        with (
            stoppable(lambda: "Stopped. The same command goes on with it."),
            _log(env, output / f"{stage}.log", formats) as log,
        ):
            done = _train_one(
                env,
                log,
                title=f"Training to {stage}",
                is_paper=settings == "paper",
                updates=updates,
                seed=seed,
                subject=subject + (f", keeping {keep}" if keep else ""),
                checkpoint=path,
            )
        env.close()
    _say_trained(path, done, as_json=as_json)


def _train_one(
    env: gym.Env[Any, Any],
    log: Log | None,
    *,
    title: str,
    is_paper: bool,
    updates: int,
    seed: int,
    **kept: Any,
) -> list[reinforce.Update]:
    """Train a policy for one environment, with a progress bar and a log.

    Args:
        log: Log of the training, or None.
        title: Title of the progress bar.
        is_paper: Whether policy and settings are those of the paper.
        updates: Total number of updates, including those before a stop.
        seed: Random seed of the training.
        kept: Arguments of ``reinforce.train`` about the policy's file.
    """
    from n2n_agents import reinforce
    from n2n_gym.common.progress import progress

    chosen = reinforce.PAPER if is_paper else reinforce.MODERN
    policy = reinforce.make_policy(
        env, seed=seed, is_plain=is_paper, uniformity=chosen.uniformity
    )
    with progress(updates, title, is_long=True) as bar:

        def show(update: reinforce.Update) -> None:
            bar.update()
            bar.set_postfix_str(f"mean reward {update.mean_reward:.4f}")
            if log is not None:
                log(update)

        return reinforce.train(
            env,
            policy,
            chosen,
            updates=updates,
            seed=seed,
            on_episode=None if log is None else log.episode,
            on_update=show,
            **kept,
        )


def _say_trained(path: Path, done: list[reinforce.Update], *, as_json: bool) -> None:
    """Print the policy's file, and the first, last and best rewards of the training."""
    if as_json:
        updates_made = [update._asdict() for update in done]
        print_json({"policy": str(path), "updates": updates_made})
    else:
        best = max(update.best_reward for update in done)
        Console().print(
            f"{path}: {len(done)} updates, mean reward {done[0].mean_reward:.4f} at "
            f"first, {done[-1].mean_reward:.4f} in the end, {best:.4f} the best",
            highlight=False,
        )


def _train_suite(suite: str, stage: str | None, output: Path, *, as_json: bool) -> None:
    """Train the policies of a suite, and print their cards."""
    kept = "Stopped. The same command goes on with it."
    with plain_errors(), stoppable(lambda: kept):
        from n2n_agents.kept import card_path
        from n2n_gym.pretraining.pipeline import pretrain
        from n2n_gym.pretraining.suite import read_suite

        if stage is not None:
            raise ValueError(f"--suite says what is trained; leave out {stage}")
        paths = pretrain(read_suite(suite), output)
        cards = {path: json.loads(card_path(path).read_text()) for path in paths}
    if as_json:
        print_json({str(path): card for path, card in cards.items()})
        return
    for path, card in cards.items():
        of = card["scores"]["training"]
        best = of["trained"]["best"]
        text = (
            f"{path}: {card['steps']:,} decisions; the best of five students at each "
            f"target earns {best:.4f} on the training teachers, "
            f"{of['fresh']['best']:.4f} with a fresh policy"
        )
        if "uniform" in of:
            uniform = of["uniform"]["best"]
            text += f", and a student of uniform width {uniform:.4f}"
            if best <= uniform:
                text += "; so this policy is worth nothing"
        say(text)


def _make(stage: str, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
    """A stage's environment."""
    import gymnasium as gym

    from envs_registry import ENVIRONMENTS, MODULE

    (name,) = (name for name in ENVIRONMENTS if stage in name.lower())
    return gym.make(MODULE + name, **arguments)


@contextmanager
def _log(
    env: gym.Env[Any, Any], folder: Path, formats: list[str]
) -> Iterator[Log | None]:
    """Context with a training log that also draws students; None without formats."""
    if not formats:
        yield None
        return
    from n2n_agents.logs import log_updates
    from n2n_gym.envs.render import draw_student
    from n2n_gym.networks.architecture import Architecture
    from n2n_gym.runs.folder import fresh_folder

    whole = env.get_wrapper_attr("teacher").architecture

    def picture(info: Mapping[str, Any]) -> NDArray[np.uint8]:
        return draw_student(whole, Architecture.from_json(info["student"]))

    # A resumed training reports its earlier updates again.
    with log_updates(fresh_folder(folder), formats, picture=picture) as log:
        yield log


def list_agents(as_json: AsJson = False) -> None:
    """List the agents that `n2n-gym compare` knows by name."""
    from n2n_agents.library import ABOUT

    if as_json:
        print_json(ABOUT)
        return
    table = Table("agent", "what")
    for name, about in ABOUT.items():
        table.add_row(name, about)
    console = Console()
    console.print(table)
    console.print(
        "Own ones: module:function, a function search(env, *, seed) that plays until "
        "it is stopped.",
        highlight=False,
    )
