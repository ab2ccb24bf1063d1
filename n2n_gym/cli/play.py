"""The command that lets a person take the decisions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.text import Text

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import Channels, Device, Task, Teacher, TrainTeacher, Weights

# torch and what needs it are imported in the command, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.envs import CompressionEnv
    from n2n_gym.render import Scene

STYLES = {"kept": "green", "shrunk": "yellow", "removed": "dim"}
UNDO, QUIT = "u", "q"


def play(
    teacher: Teacher = "resnet18",
    task: Task = "digits",
    evaluator: Annotated[
        str,
        typer.Option(help="How students are scored: inherit, short, full, ..."),
    ] = "inherit",
    granularity: Annotated[
        str, typer.Option(help="What one removal is about: unit, block or layer.")
    ] = "unit",
    output: Annotated[
        Path | None,
        typer.Option(help="A file for the student's architecture, as JSON."),
    ] = None,
    weights: Weights = None,
    mean: Channels = None,
    std: Channels = None,
    device: Device = None,
    train_teacher: TrainTeacher = False,
) -> None:
    """Take the decisions at the keyboard: what to remove, then how far to shrink.

    Undo takes back as many as you like. In the end the student is scored.
    """
    with plain_errors(), stoppable(lambda: "Stopped."):
        from n2n_gym.envs import RemoveEnv, ShrinkEnv
        from n2n_gym.places import write_whole
        from n2n_gym.runs import statistics
        from n2n_gym.teachers import load_teacher

        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {output.absolute().parent}")
        loaded = load_teacher(
            teacher,
            task,
            weights=weights,
            normalisation=statistics(mean, std),
            device=device,
            train_teacher=train_teacher,
        )
        remove = RemoveEnv(loaded, granularity=granularity, evaluator=evaluator)
        keys = {"k": 0, "r": 1}
        _play(remove, keys, "k keep, r remove")
        shrink = ShrinkEnv(loaded, start=remove.student, evaluator=evaluator)
        keys = {str((i + 1) % 10): i for i in range(10)}
        _play(shrink, keys, "1 to 9 tenths remain, 0 all")
        if output is not None:
            write_whole(output, shrink.student.to_json().encode())
            Console().print(f"{output}: the student's architecture", highlight=False)


def _play(env: CompressionEnv[Any], keys: dict[str, int], hint: str) -> None:
    """One stage, to its end, and what the student is worth."""
    console = Console()
    with _keys_alone() as is_alone:
        reward, info = _decide(env, keys, hint, console, is_alone=is_alone)
    if "error" in info:
        console.print(f"[red]The student has no score:[/red] {escape(info['error'])}")
        return
    console.print(
        f"reward {reward:.4f}: {1 / (1 - info['compression']):.1f}x smaller, accuracy "
        f"{info['accuracy']:.2%} (teacher {info['teacher_accuracy']:.2%}), validation",
        highlight=False,
        style="bold",
    )


def _decide(
    env: CompressionEnv[Any],
    keys: dict[str, int],
    hint: str,
    console: Console,
    *,
    is_alone: bool,
) -> tuple[float, dict[str, Any]]:
    """The last step's reward and info, when all decisions have been made."""
    actions: list[int] = []
    _, info = env.reset()
    reward, note = 0.0, ""
    while True:
        _show(console, env.scene, f"{note}{hint}, u undo, q quit")
        if env.is_complete:
            return reward, info
        key, note = _key(is_alone), ""
        if key == QUIT:
            raise KeyboardInterrupt
        if key == UNDO:
            actions = actions[:-1]
            _, info = env.reset(options={"decisions": actions})
        elif key not in keys:
            note = f"{key!r} is no choice. "
        elif not info["action_mask"][keys[key]]:
            note = "That would leave no network. "
        else:
            actions.append(keys[key])
            if len(actions) == len(env.decisions):
                console.print("Scoring the student ...")
            _, reward, _, _, info = env.step(keys[key])


def _show(console: Console, scene: Scene, hint: str) -> None:
    from n2n_gym.render import bars, lines

    shown = bars(scene.teacher, scene.start, scene.student, scene.current)
    rows = []
    for line in lines(shown, console.width):
        style = STYLES[line.state]
        name = Text(f"{line.mark} {line.name}  ", "bold" if line.mark == ">" else "")
        bar = Text.assemble((line.kept, style), (line.gone, "dim"))
        rows.append(Text.assemble(name, bar, (f"  {line.change}", style)))
    if console.is_terminal:
        console.clear()
    heading = Text(scene.heading, "bold")
    console.print(Group(heading, *rows, Text(scene.total), Text(hint, "dim")))


@contextmanager
def _keys_alone() -> Iterator[bool]:
    """Inside, a terminal gives each key at once; whether there is one that can."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal, termios.TCSADRAIN)
        yield True
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _key(is_alone: bool) -> str:
    """One key, or the first letter of a line."""
    if is_alone:
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace")
    line = sys.stdin.readline()
    if not line:
        raise ValueError("there is no more input; the keys come from a terminal")
    return line.strip()[:1]
