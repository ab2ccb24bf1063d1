"""Output of commands: for people, or one JSON document for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def json_option(**panel: Any) -> Any:
    """The option ``--json``.

    Args:
        panel: Panel of the help, as keyword arguments of typer; by default none.
    """
    return typer.Option(
        "--json", help="Print one JSON document, for machines.", **panel
    )


AsJson = Annotated[bool, json_option()]


def print_json(document: object) -> None:
    """Print the document, and nothing else, to standard output."""
    typer.echo(json.dumps(document))


def say(text: str) -> None:
    """Print a text for people, without markup and without added line breaks."""
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def draw_if_possible(draw: Any, curves: Any, path: Path, unit: str) -> str:
    """Draw a picture; return the text that mentions it, or says what it needs."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return ' (curves.png needs pip install "n2n-gym[bench]")'
    draw(curves, path, unit)
    return ", curves.png"
