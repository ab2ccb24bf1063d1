"""The report's page: a template, its charts, and the library that draws them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import jinja2

from n2n_gym.common.files import write_whole
from n2n_gym.common.quantities import show_quantity
from n2n_gym.report.charts import Chart, charts
from n2n_gym.report.content import Found, Trial
from n2n_gym.report.diagram import draw
from n2n_gym.report.figures import headline, shelf_rows
from n2n_gym.runs.folder import REPORT
from n2n_gym.runs.options import Options

LIBRARY: Final = Path(__file__).parent / "vega.js"  # draws the charts


def write_report(folder: Path, summary: dict[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    The file contains everything it needs, so it opens without an internet connection.

    Args:
        summary: Summary of a run that is about to finish; by default the one in the
            folder.

    Raises:
        ValueError: There is no finished run in the folder.
    """
    found = Found.read(folder) if summary is None else Found.of(folder, summary)
    drawn = charts(found)
    content = render(
        "run.html.j2",
        drawn,
        found=found,
        figures=headline(found),
        shelf_rows=shelf_rows(found),
        diagram=draw(found.teacher, found.student),
        command=command(found.options),
        export=lambda trial: export_command(found.folder, trial),
        options=_said(found.options),
    )
    path = folder / REPORT
    write_whole(path, content.encode())
    return path


def command(options: Options) -> str:
    """The command that repeats a run."""
    parts = ["n2n-gym", "compress"]
    for name, value in _said(options).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else option.replace("--", "--no-", 1))
        else:
            parts += [option, str(value)]
    return shlex.join(parts)


def export_command(folder: Path, trial: Trial) -> str:
    """The command that distils a student fully and writes its files."""
    student = trial.fingerprint[:12]
    return shlex.join(["n2n-gym", "export", str(folder), "--student", student])


def _said(options: Options) -> dict[str, Any]:
    """Options that differ from their defaults, and the most important ones."""
    always = ("teacher", "task", "output", "seed")
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name in always or getattr(options, field.name) != field.default
    }


def render(template: str, charts: Sequence[Chart], **content: Any) -> str:
    """A page with its charts and the library that draws the charts.

    Args:
        template: File name of the template.
        content: Other variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("n2n_gym.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["quantity"] = partial(show_quantity, digits=4)
    environment.filters["percent"] = lambda share: f"{share:.2%}"
    environment.filters["count"] = lambda number: f"{number:,}"
    specs = json.dumps({chart.name: chart.spec for chart in charts})
    return environment.get_template(template).render(
        charts=charts,
        specs=specs.replace("<", "\\u003c"),  # safe inside a script element
        library=LIBRARY.read_text(encoding="utf-8"),
        **content,
    )
