"""The command that compresses a network."""

from __future__ import annotations

import shlex
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import json_option, print_json
from n2n_gym.cli.spreading import with_fields
from n2n_gym.cli.summary import show_summary
from n2n_gym.common.progress import loading
from n2n_gym.runs.options import Options, read_toml
from n2n_gym.runs.shared_options import COMPARISON, FILES

# Torch is imported inside the command, so that --help is fast.
BEGAN = time.monotonic()  # minutes count from here: torch is not loaded yet


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's options the defaults of the command line; return its path."""
    if path is not None:
        with plain_errors():
            known = [field.name for field in fields(Options)]
            context.default_map = read_toml(path, known)
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_read_config,
        is_eager=True,
        help="A TOML file with any of these options, such as a run's options.toml.",
        **FILES,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a stopped run, to resume it with its options.",
        **FILES,
    ),
]
NoControls = Annotated[
    bool,
    typer.Option("--no-controls", help="Short for --controls none.", **COMPARISON),
]


@with_fields(Options)
def compress(
    context: typer.Context,
    *,
    config: Config = None,
    resume: Resume = None,
    given: dict[str, Any],
    no_controls: NoControls = False,
    as_json: Annotated[bool, json_option(**FILES)] = False,
) -> None:
    """Turn a teacher into a small student and write it as an ONNX file.

    An agent first decides which layers to remove, then how far to shrink the rest. The
    best students are distilled from the teacher. The smallest that cannot be told from
    the teacher is written to the output folder. With limits, it is the smallest that
    keeps them and cannot be told from the most accurate. The folder also has everything
    that was tried (history.jsonl).
    """
    said = {name: given[name] for name in given if _is_said(context, name)}
    with plain_errors():
        if no_controls:
            if said.setdefault("controls", "none") != "none":
                raise ValueError(
                    f"--no-controls and --controls {said['controls']} contradict each "
                    f"other"
                )
        with loading("Loading PyTorch"):
            from n2n_gym.runs.folder import (
                check_same,
                is_finished,
                read_summary,
                resumed,
            )
            from n2n_gym.runs.identity import check_unchanged

        options = Options(**said) if resume is None else resumed(resume, said)
        folder = options.output
        was_finished = is_finished(folder)
        if was_finished:
            check_same(options)
            check_unchanged(options, options.load_teacher())
        else:
            _run(options)
        summary = read_summary(folder)
        if was_finished:
            note = f"Nothing was done: {folder} holds this run, and it is finished."
            Console(stderr=as_json).print(note, highlight=False, markup=False)
        if as_json:
            print_json({**summary, "output": str(folder)})
        else:
            show_summary(summary, options)


def _is_said(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, on the command line or in the options file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _run(options: Options) -> None:
    from n2n_gym.runs.folder import HISTORY, OPTIONS
    from n2n_gym.runs.history import FINAL, read_history

    def kept() -> str:
        if not (options.output / OPTIONS).exists():
            return "Stopped before the run began; the same command begins it."
        lines = read_history(options.output / HISTORY)
        scored = sum(line["stage"] != FINAL for line in lines)
        return (
            f"Stopped. {scored} students and their scores are kept; go on with: "
            f"n2n-gym compress --resume {shlex.quote(str(options.output))}"
        )

    with stoppable(kept):
        with loading("Loading ONNX Runtime and the rest"):
            from n2n_gym.compression.pipeline import compress as run
        run(options, BEGAN)
