"""The command that lets a person take the decisions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group
from rich.text import Text

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import (
    Device,
    Keep,
    Mean,
    Std,
    TaskName,
    Teacher,
    TrainTeacher,
    Weights,
)
from n2n_gym.cli.output import AsJson, print_json

# torch and what needs it are imported in the command, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.envs import CompressionEnv
    from n2n_gym.envs.render import Line, Scene

STYLES = {"kept": "green", "shrunk": "yellow", "removed": "dim"}
UNDO, QUIT = "u", "q"
AROUND = 6  # lines of a screen that are no layers


class Choices(NamedTuple):
    """The keys of a stage."""

    actions: dict[str, int]
    hint: str


REMOVE = Choices({"k": 0, "r": 1}, "k keep, r remove")
SHRINK = Choices(
    {str((i + 1) % 10): i for i in range(10)}, "1 to 9 tenths remain, 0 all"
)


def play(
    teacher: Teacher = "resnet18",
    task: TaskName = "digits",
    evaluator: Annotated[
        str,
        typer.Option(help="How students are scored: inherit, short, full, ..."),
    ] = "inherit",
    granularity: Annotated[
        str, typer.Option(help="What one removal is about: unit, block or layer.")
    ] = "unit",
    keep: Keep = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A file for the student's architecture, as JSON."),
    ] = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    device: Device = None,
    train_teacher: TrainTeacher = False,
    as_json: AsJson = False,
) -> None:
    """Take the decisions at the keyboard: what to remove, then how far to shrink.

    Undo takes back as many as you like, removals too. In the end the student is scored.
    """
    with plain_errors(), stoppable(lambda: "Stopped.", has_bars=False):
        from n2n_gym.common.files import write_whole
        from n2n_gym.envs import RemoveEnv, ShrinkEnv
        from n2n_gym.envs.arguments import Arguments
        from n2n_gym.runs.options import statistics
        from n2n_gym.teachers.loading import load_teacher

        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {output.absolute().parent}")
        loaded = load_teacher(
            teacher,
            task,
            weights=weights,
            normalisation=statistics(mean, std),
            device=device,
        )
        console = Console(stderr=as_json)
        alike: Arguments = {"evaluator": evaluator, "keep": keep}
        remove = RemoveEnv(loaded, granularity=granularity, **alike)
        removals: list[int] = []
        shrunk = None
        with _keys_alone() as is_alone:
            decide = partial(_decide, console=console, is_alone=is_alone)
            while shrunk is None:
                removed = decide(remove, REMOVE, removals)
                if removed is None:
                    continue  # there was nothing to undo
                shrink = ShrinkEnv(loaded, start=remove.student, **alike)
                shrunk = decide(shrink, SHRINK, [], note=f"{_worth(removed)}\n")
                if shrunk is None:  # undone beyond its beginning
                    removals.pop()
        console.print(_worth(shrunk), highlight=False, markup=False, style="bold")
        if output is not None:
            write_whole(output, shrink.student.to_json().encode())
            console.print(f"{output}: the student's architecture", highlight=False)
        if as_json:
            print_json(shrunk)


def _decide(
    env: CompressionEnv,
    choices: Choices,
    actions: list[int],
    *,
    console: Console,
    is_alone: bool,
    note: str = "",
) -> dict[str, Any] | None:
    """The last info of a stage, and its reward; None if more is undone than there is.

    Args:
        actions: Already taken; those of the stage are added, those undone are not there
            any more.
        note: To be read at first.
    """
    _, info = env.reset(options={"decisions": actions})
    reward = 0.0
    while True:
        hint = f"{note}{choices.hint}, u undo, q quit"
        _show(console, env.scene, "" if env.is_complete else hint)
        if env.is_complete:
            del info["action_mask"]
            return {"reward": reward, **info}
        key, note = _key(is_alone), ""
        if key == QUIT:
            raise KeyboardInterrupt
        if key == UNDO:
            if not actions:
                return None
            actions.pop()
            _, info = env.reset(options={"decisions": actions})
        elif key not in choices.actions:
            note = f"{key!r} is no choice. "
        elif not env.episode.is_legal(choices.actions[key]):
            note = "That would leave no network. "
        else:
            actions.append(choices.actions[key])
            if len(actions) == len(env.decisions):
                console.print("Scoring the student ...")
            _, reward, _, _, info = env.step(actions[-1])


def _worth(ended: dict[str, Any]) -> str:
    """What the student at the end of a stage is worth."""
    if "error" in ended:
        return f"The student has no score: {ended['error']}"
    times = 1 / (1 - ended["compression"])
    return (
        f"reward {ended['reward']:.4f}: {times:.1f}x smaller, accuracy "
        f"{ended['accuracy']:.2%} (teacher {ended['teacher_accuracy']:.2%}), validation"
    )


def _show(console: Console, scene: Scene, hint: str) -> None:
    from n2n_gym.envs.render import bars, lines

    whole = bars(scene.teacher, scene.start, scene.student, scene.current)
    shown = lines(whole, console.width)
    if console.is_terminal:
        console.clear()
        shown = near(shown, console.height - AROUND)
    rows = []
    for line in shown:
        style = STYLES[line.state]
        name = Text(f"{line.mark} {line.name}  ", "bold" if line.mark == ">" else "")
        bar = Text.assemble((line.kept, style), (line.gone, "dim"))
        rows.append(Text.assemble(name, bar, (f"  {line.change}", style)))
    heading = Text(scene.heading, "bold")
    console.print(Group(heading, *rows, Text(scene.total), Text(hint, "dim")))


def near(whole: list[Line], most: int) -> list[Line]:
    """At most so many of the layers: those about the decision at hand."""
    most = max(most, 1)
    at = next((i for i, line in enumerate(whole) if line.mark == ">"), 0)
    first = max(0, min(at - most // 2, len(whole) - most))
    return whole[first : first + most]


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
