"""What commands print: for people, or one JSON document for machines."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, for machines.")
]


def print_json(document: object) -> None:
    """All that a machine finds on the standard output."""
    typer.echo(json.dumps(document))


def say(text: str) -> None:
    """A line for people, as it is: no markup, no breaks."""
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
