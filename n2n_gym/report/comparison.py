"""The page of a comparison of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from n2n_gym.common.files import write_whole
from n2n_gym.comparison.statistics import Curve, Curves, Row, bands, heights
from n2n_gym.report.charts import Chart, framed, number
from n2n_gym.report.page import render
from n2n_gym.runs.folder import REPORT, about


def write_comparison(
    folder: Path,
    curves: Curves,
    rows: Sequence[Row],
    *,
    budget: str,
    unit: str,
    command: str,
) -> Path:
    """Write ``report.html`` into a comparison's folder.

    Args:
        curves: Curves of all runs, from ``read_curves``.
        rows: Results of each agent, from ``summarise``.
        budget: Budget of a run, with its unit.
        unit: Unit of the budget.
        command: Command that made the comparison.
    """
    names = [row.agent for row in rows]
    charts = [
        curve_chart(f"curves{i}", env, curves[env], names, unit)
        for i, env in enumerate(curves)
    ]
    seeds = max(len(runs) for of in curves.values() for runs in of.values())
    content = render(
        "comparison.html.j2",
        charts,
        rows=rows,
        envs=list(curves),
        seeds=seeds,
        budget=budget,
        command=command,
        about=about(),
    )
    path = folder / REPORT
    write_whole(path, content.encode())
    return path


def curve_chart(
    name: str,
    env: str,
    agents: Mapping[str, Mapping[int, Curve]],
    names: Sequence[str],
    unit: str,
) -> Chart:
    """The best reward so far of each agent, over the budget spent.

    Args:
        names: Names of all agents, so that an agent has the same colour in all charts.
    """
    found = bands(agents)
    values = [
        {"agent": agent, "spent": x, "best": middle, "low": low, "high": high}
        for agent, band in found.items()
        for x, middle, low, high in zip(*band, strict=True)
    ]
    ends = {value["agent"]: f"{value['best']:.4f}" for value in values}
    highest = max(ends.values(), key=float)
    first = [agent for agent, end in ends.items() if end == highest]
    who = f"{first[0]} ends" if len(first) == 1 else f"{len(first)} agents end"
    colour = {
        "field": "agent",
        "type": "nominal",
        "scale": {"domain": list(names)},
        "legend": {
            "title": None,
            "orient": "top",
            "columns": 4,
            "symbolOpacity": 1,
        },
    }
    x = {"field": "spent", "type": "quantitative", "title": unit}
    y = number("best", "best reward so far", {"domain": heights(found)})
    tooltip = [
        {"field": "agent"},
        {"field": "spent", "title": unit, "format": ",.3~f"},
        *({"field": name, "format": ".4f"} for name in ("best", "low", "high")),
    ]
    spec = {
        "data": {"values": values},
        "encoding": {"x": x, "color": colour},
        "layer": _band_and_line(y, tooltip),
    }
    text = (
        f"{who} highest, at {highest}. Interquartile means over the seeds; the bands "
        f"are 95 % intervals."
    )
    return Chart(name, env, text, framed(spec, text))


def _band_and_line(
    y: dict[str, Any], tooltip: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """An agent's interval as an area, and its best reward as a line."""
    return [
        {
            "mark": {"type": "area", "opacity": 0.15, "clip": True},
            "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {
                "type": "line",
                "strokeWidth": 2,
                "point": {"opacity": 0},
                "clip": True,
            },
            "encoding": {"y": y, "tooltip": tooltip},
        },
    ]
