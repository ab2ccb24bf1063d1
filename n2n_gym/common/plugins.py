"""Arguments that name objects: known names, or "module:attribute"."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


def lookup(
    what: str, name: str, known: Mapping[str, T], *, also: Sequence[str] = ()
) -> T:
    """The object that a known name or ``"package.module:attribute"`` names.

    Args:
        what: Name of the argument, for the error: "task", "reward", ...
        also: Further forms that the caller accepts, for the error.

    Raises:
        ValueError: There is no such name, module or attribute.
    """
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    if module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").replace("/", ".")
        raise ValueError(
            f"{what} {name!r} names a file; write '{module_name}:{attribute}'"
        )
    if not colon:
        forms = ", ".join((*known, *also, "or 'module:attribute'"))
        near = get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}; known: {forms}{advice}")
    try:
        found: T = getattr(_import(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    return found


def _import(name: str) -> ModuleType:
    """An installed module, or a file in the current folder."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or name.split(".")[0] != error.name.split(".")[0]:
            raise
        # Last in the path: files there must not shadow packages.
        sys.path.append(os.getcwd())
        return importlib.import_module(name)


def refuse_unknown(what: str, value: object, known: Sequence[object]) -> None:
    """Raise a ValueError if a value is not among the accepted ones."""
    if value not in known:
        names = ", ".join(str(each) for each in known)
        raise ValueError(f"unknown {what}={value!r}; known: {names}")


def checked_share(what: str, value: float) -> float:
    """The value, if it is from 0 to 1.

    Raises:
        ValueError: The value is not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{what} must be from 0 to 1, got {value!r}")
    return value


def is_picklable(function: Callable[..., Any] | None) -> bool:
    """Whether a function can be sent to another process.

    A function defined inside another function cannot be sent.
    """
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
        return False
    return True


def check_call(what: str, name: object, function: Any, *arguments: Any) -> None:
    """Refuse a user's function that does not take these arguments.

    Raises:
        ValueError: The object is no function, or takes other arguments.
    """
    count = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{what} {name!r} must be a function that takes {count}: {error}"
        ) from error
