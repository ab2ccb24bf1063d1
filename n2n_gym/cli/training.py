"""The commands that train agents, and list them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import Device, Keep, TaskName, Teacher, TrainTeacher
from n2n_gym.cli.output import AsJson, print_json

# torch and what needs it are imported in the command, so that --help is quick.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def train(
    stage: Annotated[
        Literal["remove", "shrink"], typer.Argument(help="What the policy decides.")
    ],
    teacher: Teacher = "resnet18",
    task: TaskName = "digits",
    start: Annotated[
        Path | None,
        typer.Option(help="An architecture.json that shrinkage starts from."),
    ] = None,
    keep: Keep = None,
    evaluator: Annotated[
        str, typer.Option(help="How students are scored: inherit, short, size, ...")
    ] = "inherit",
    settings: Annotated[
        Literal["modern", "paper"], typer.Option(help="Of REINFORCE.")
    ] = "modern",
    updates: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of the policy, 5 students each.")
    ] = 50,
    output: Annotated[
        Path, typer.Option(help="A folder for the policy, and what it was made from.")
    ] = Path("runs/policy"),
    logs: Annotated[
        str,
        typer.Option(
            help="Where its progress goes: csv,json,tensorboard,wandb,mlflow."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    device: Device = None,
    train_teacher: TrainTeacher = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy of REINFORCE, and keep it for other runs.

    `n2n-gym compress --init-policy` starts from it, on any teacher; so do the agents
    reinforce@FILE and frozen@FILE of `n2n-gym compare`. The same command goes on after
    a stop, bit for bit, and with more --updates it trains further.
    """
    with plain_errors():
        import gymnasium as gym

        from envs_registry import ENVIRONMENTS, MODULE
        from n2n_agents import reinforce
        from n2n_agents.logs import check_formats, log_updates
        from n2n_gym.common.progress import progress
        from n2n_gym.envs.render import draw_student
        from n2n_gym.networks.architecture import Architecture
        from n2n_gym.runs.folder import POLICY, fresh_folder

        formats = check_formats(logs)
        if start is not None and stage == "remove":
            raise ValueError("removal starts from the teacher; leave out --start")
        given: dict[str, Any] = {} if start is None else {"start": start}
        (name,) = (name for name in ENVIRONMENTS if stage in name.lower())
        env = gym.make(
            MODULE + name,
            teacher=teacher,
            task=task,
            evaluator=evaluator,
            keep=keep,
            device=device,
            **given,
        )
        is_paper = settings == "paper"
        policy = reinforce.make_policy(env, seed=seed, is_plain=is_paper)
        output.mkdir(parents=True, exist_ok=True)
        path = output / POLICY.format(agent="reinforce", stage=stage)
        whole = env.get_wrapper_attr("teacher").architecture

        def picture(info: Mapping[str, Any]) -> NDArray[np.uint8]:
            return draw_student(whole, Architecture.from_json(info["student"]))

        places = (
            # A training that goes on tells of its earlier updates again.
            log_updates(fresh_folder(output / f"{stage}.log"), formats, picture=picture)
            if formats
            else None
        )
        with (
            stoppable(lambda: "Stopped. The same command goes on with it."),
            places or nullcontext() as log,
            progress(updates, f"Training to {stage}", is_long=True) as bar,
        ):

            def show(update: reinforce.Update) -> None:
                bar.update()
                bar.set_postfix_str(f"mean reward {update.mean_reward:.4f}")
                if log is not None:
                    log(update)

            done = reinforce.train(
                env,
                policy,
                reinforce.PAPER if is_paper else reinforce.MODERN,
                updates=updates,
                seed=seed,
                subject=f"{stage}, {teacher}, {task}, {evaluator}, from {start}"
                + (f", keeping {keep}" if keep else ""),
                checkpoint=path,
                on_episode=None if log is None else log.episode,
                on_update=show,
            )
        env.close()
    if as_json:
        updates_made = [update._asdict() for update in done]
        print_json({"policy": str(path), "updates": updates_made})
        return
    best = max(update.best_reward for update in done)
    Console().print(
        f"{path}: {len(done)} updates, mean reward {done[0].mean_reward:.4f} at first, "
        f"{done[-1].mean_reward:.4f} in the end, {best:.4f} the best",
        highlight=False,
    )


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
