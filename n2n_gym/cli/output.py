"""Output of commands: for people, or one JSON document for machines."""

from __future__ import annotations

import json
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
