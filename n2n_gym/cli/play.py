"""The command that lets a person make the decisions."""

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
from n2n_gym.cli.output import AsJson, print_json
from n2n_gym.runs.shared_options import (
    EVALUATOR,
    GRANULARITY,
    TASK,
    TEACHER,
    Device,
    EvaluatorName,
    Granularity,
    Keep,
    Mean,
    Std,
    TaskName,
    TeacherName,
    TrainTeacher,
    Weights,
    named_teacher,
)

# Torch is imported inside the command, so that --help is fast.
if TYPE_CHECKING:
    from n2n_gym.envs import CompressionEnv
    from n2n_gym.envs.render import Line, Scene

STYLES = {"kept": "green", "shrunk": "yellow", "removed": "dim"}
UNDO, QUIT = "u", "q"
AROUND = 6  # lines of the screen that show no layer


class Choices(NamedTuple):
    """The keys for the actions of one stage, and a hint that explains them."""

    actions: dict[str, int]
    hint: str


REMOVE = Choices({"k": 0, "r": 1}, "k keep, r remove")
SHRINK = Choices(
    {str((i + 1) % 10): i for i in range(10)}, "1 to 9 tenths remain, 0 all"
)


Output = Annotated[
    Path | None, typer.Option(help="A file for the student's architecture, as JSON.")
]


def play(
    teacher: TeacherName = TEACHER,
    task: TaskName = TASK,
    evaluator: EvaluatorName = EVALUATOR,
    granularity: Granularity = GRANULARITY,
    keep: Keep = None,
    output: Output = None,
    weights: Weights = None,
    mean: Mean = None,
    std: Std = None,
    device: Device = None,
    train_teacher: TrainTeacher = False,
    as_json: AsJson = False,
) -> None:
    """Make the decisions at the keyboard: what to remove, then how far to shrink.

    You can undo any number of decisions, removals too. At the end the student is
    scored.
    """
    with plain_errors(), stoppable(lambda: "Stopped.", has_bars=False):
        from n2n_gym.common.files import write_whole
        from n2n_gym.envs import RemoveEnv, ShrinkEnv
        from n2n_gym.envs.arguments import Arguments

        if output is not None and not output.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {output.absolute().parent}")
        loaded = named_teacher(
            teacher, task, weights=weights, mean=mean, std=std, device=device
        )
        console = Console(stderr=as_json)
        alike: Arguments = {"evaluator": evaluator, "keep": keep}
        remove = RemoveEnv(loaded, granularity=granularity, **alike)
        removals: list[int] = []
        shrunk = None
        with _single_keys() as is_single:
            decide = partial(_decide, console=console, is_single=is_single)
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
    is_single: bool,
    note: str = "",
) -> dict[str, Any] | None:
    """Let the user make the decisions of one stage.

    Args:
        actions: Actions so far. New actions are appended, undone actions are removed.
        is_single: Whether the terminal sends each key at once.
        note: Text to show before the first decision.

    Returns:
        The last info and the reward; None if the user goes back before the stage.
    """
    _, info = env.reset(options={"decisions": actions})
    reward = 0.0
    while True:
        hint = f"{note}{choices.hint}, u undo, q quit"
        _show(console, env.scene, "" if env.is_complete else hint)
        if env.is_complete:
            del info["action_mask"]
            return {"reward": reward, **info}
        key, note = _key(is_single), ""
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
    """The reward and score of the student at the end of a stage, as text."""
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
    """The lines around the next decision, at most ``most`` of them."""
    most = max(most, 1)
    at = next((i for i, line in enumerate(whole) if line.mark == ">"), 0)
    first = max(0, min(at - most // 2, len(whole) - most))
    return whole[first : first + most]


@contextmanager
def _single_keys() -> Iterator[bool]:
    """Context in which a terminal sends each key at once; yields whether this works."""
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


def _key(is_single: bool) -> str:
    """The next key from the keyboard.

    Args:
        is_single: Whether the terminal sends each key at once. Otherwise, the key is
            the first character of the next line.
    """
    if is_single:
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace")
    line = sys.stdin.readline()
    if not line:
        raise ValueError("there is no more input; the keys come from a terminal")
    return line.strip()[:1]
