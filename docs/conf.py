"""Sphinx's settings. What follows from the code is written here before each build."""

import inspect
import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

from n2n_gym.envs import CompressEnv, RemoveEnv, ShrinkEnv
from n2n_gym.runs.options import Options

HERE = Path(__file__).parent

project = "n2n-gym"
release = metadata.version("n2n-gym")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_heading_anchors = 3
exclude_patterns = ["_build", "columns.md"]
html_theme = "furo"
html_title = "n2n-gym"
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True  # attributes are described once


def write_environments() -> None:
    """A page for each environment from its docstring, in Gymnasium's outline."""
    folder = HERE / "environments"
    folder.mkdir(exist_ok=True)
    environments = {
        "N2NRemove-v0": RemoveEnv,
        "N2NShrink-v0": ShrinkEnv,
        "N2NCompress-v0": CompressEnv,
    }
    for name, env in environments.items():
        text, _, arguments = (inspect.getdoc(env) or "").partition("\nArgs:\n")
        described, _, rest = arguments.partition("\n## ")
        rest = f"\n## {rest}" if rest else ""
        page = f"# {name}\n\n{text}\n{as_list(described)}\n{rest}\n"
        (folder / f"{name}.md").write_text(page)


def as_list(arguments: str) -> str:
    """Google's ``Args:`` as a list of Markdown."""
    # Names that take several lines go on until the colon.
    whole = re.sub(r",\n\s+(?=[a-z_, \n]+: )", ", ", inspect.cleandoc(arguments))
    lines = []
    for line in whole.splitlines():
        name, colon, about = line.partition(": ")
        is_new = colon and not line.startswith(" ")
        lines.append(f"- **{name}**: {about}" if is_new else f"  {line.strip()}")
    return "\n".join(lines)


def write_commands() -> None:
    """The page of the command line, from the commands themselves."""
    import typer
    from typer.cli import get_docs_for_click

    from n2n_gym.cli import app

    command = typer.main.get_command(app)
    context = command.make_context("n2n-gym", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="n2n-gym")
    text = text.strip().replace("# `n2n-gym`", "# The command line", 1)
    (HERE / "commands.md").write_text(f"{text}\n")


def describe_options() -> None:
    """Say of each of `Options` what the command's help says, and its plain type."""
    hints = get_type_hints(Options, include_extras=True)
    described = []
    for name in (field.name for field in fields(Options)):
        (option,) = hints[name].__metadata__
        described.append(f"    {name}: {option.help}")
    about = inspect.getdoc(Options) or ""
    Options.__doc__ = "\n".join([about, "", "Args:", *described])
    Options.__annotations__ = get_type_hints(Options)


write_environments()
write_commands()
describe_options()
