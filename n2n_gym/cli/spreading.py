"""A command whose options are the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, get_type_hints

from n2n_gym.runs.shared_options import PANELS

Command = Callable[..., None]


def with_fields(kind: type[Any]) -> Callable[[Command], Command]:
    """Replace a command's parameter ``given`` by the fields of a dataclass.

    Typer then sees an option for each field, and the command gets all fields as a
    dictionary. ``--help`` shows the panels in the order of ``PANELS``. Options within a
    panel keep the order of the parameters and fields.
    """
    hints = get_type_hints(kind, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [
            parameter
            for own in signature.parameters.values()
            for parameter in (options if own.name == "given" else [own])
        ]

        @wraps(command)
        def run(**arguments: Any) -> None:
            given = {option.name: arguments.pop(option.name) for option in options}
            command(**arguments, given=given)

        shown = signature.replace(parameters=sorted(parameters, key=_panel))
        run.__signature__ = shown  # type: ignore[attr-defined]
        return run

    return decorate


def _panel(parameter: inspect.Parameter) -> int:
    """The position of a parameter's panel; parameters without a panel come first."""
    (option, *_) = getattr(parameter.annotation, "__metadata__", (None,))
    title = getattr(option, "rich_help_panel", None)
    return 0 if title is None else 1 + PANELS.index(title)
