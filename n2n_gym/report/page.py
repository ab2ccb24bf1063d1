"""The page: what was found, in a template, with the library that draws its charts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2
import vl_convert

from n2n_gym.common.files import write_whole
from n2n_gym.common.quantities import show_quantity
from n2n_gym.report.charts import Chart, charts
from n2n_gym.report.content import Found, Trial
from n2n_gym.report.diagram import draw
from n2n_gym.runs.folder import REPORT
from n2n_gym.runs.options import Options

LIBRARY: Final = "window.vegaEmbed = vegaEmbed;"  # all that the page calls
NETWORKS: Final = ("student", "teacher")
PREFIXES: Final = (
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
)


class Figure(NamedTuple):
    """One of the headline's: what, how much, and against what."""

    name: str
    value: str
    note: str


def write_report(folder: Path, summary: dict[str, Any] | None = None) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    The file holds all that it needs: it opens from a disk, without a network.

    Args:
        summary: Of a run that is about to be finished; else it is in the folder.

    Raises:
        ValueError: The folder holds no finished run.
    """
    found = Found.read(folder) if summary is None else Found.of(folder, summary)
    drawn = charts(found)
    content = render(
        "run.html.j2",
        drawn,
        found=found,
        figures=headline(found),
        diagram=draw(found.teacher, found.student),
        command=command(found.options),
        export=lambda trial: export_command(found.folder, trial),
        options=_said(found.options),
    )
    path = folder / REPORT
    write_whole(path, content.encode())
    return path


def headline(found: Found) -> list[Figure]:
    """What a reader wants to know first."""
    whole, final = found.summary["teacher"], found.summary["student"]
    test = found.summary["test"]
    sizes = [_with_unit(test[name]["bytes"], "B") for name in NETWORKS]
    times = [test[name]["latency_ms"] / 1e3 for name in NETWORKS]
    low, high = (100 * (test["difference"] + sign * test["error"]) for sign in (-1, 1))
    return [
        Figure(
            "times smaller",
            f"{found.times_smaller:.3g}x",
            f"{final['num_params']:,} of {whole['num_params']:,} parameters",
        ),
        Figure(
            found.test_figure,
            f"{final['test_accuracy']:.2%}",
            f"teacher {whole['test_accuracy']:.2%}; difference "
            f"{100 * test['difference']:+.2f} points, 95 % interval {low:+.2f} to "
            f"{high:+.2f}, {test['num_images']:,} images",
        ),
        Figure("ONNX file", sizes[0], f"teacher {sizes[1]}"),
        Figure(
            "multiply-accumulates",
            _with_unit(final["num_macs"]),
            f"{whole['num_macs'] / final['num_macs']:.3g}x fewer than the teacher's "
            f"{_with_unit(whole['num_macs'])}",
        ),
        Figure(
            "latency of one image",
            _with_unit(times[0], "s"),
            f"{times[1] / times[0]:.3g}x as fast as the teacher, "
            f"{_with_unit(times[1], 's')}; ONNX Runtime, one thread of this CPU",
        ),
    ]


def _with_unit(value: float, unit: str = "") -> str:
    """Three digits and a prefix: 24.5 kB, 12.5 µs, 3.19 M."""
    for factor, prefix in PREFIXES:
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def command(options: Options) -> str:
    """What makes the same run again."""
    parts = ["n2n-gym", "compress"]
    for name, value in _said(options).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else option.replace("--", "--no-", 1))
        else:
            parts += [option, str(value)]
    return shlex.join(parts)


def export_command(folder: Path, trial: Trial) -> str:
    """What distils a student fully and writes it."""
    student = trial.fingerprint[:12]
    return shlex.join(["n2n-gym", "export", str(folder), "--student", student])


def _said(options: Options) -> dict[str, Any]:
    """The options that are not as they would be anyway, and those that matter most."""
    always = ("teacher", "task", "output", "seed")
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name in always or getattr(options, field.name) != field.default
    }


def render(template: str, charts: Sequence[Chart], **content: Any) -> str:
    """A page with its charts and the library that draws them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("n2n_gym.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["quantity"] = show_quantity
    environment.filters["percent"] = lambda share: f"{share:.2%}"
    environment.filters["count"] = lambda number: f"{number:,}"
    library = vl_convert.javascript_bundle(LIBRARY)
    specs = json.dumps({chart.name: chart.spec for chart in charts})
    return environment.get_template(template).render(
        charts=charts,
        specs=specs.replace("<", "\\u003c"),  # JSON that may stand in a script
        library=library.replace("</script", "<\\/script"),
        **content,
    )
