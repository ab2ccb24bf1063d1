"""How the commands end when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


@contextmanager
def plain_errors() -> Iterator[None]:
    """One line for what the user can mend; a traceback for a mistake of ours."""
    try:
        yield
    except (ValueError, OSError, ArithmeticError) as error:
        Console(stderr=True).print(
            f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
