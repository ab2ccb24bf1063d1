"""The report's charts, as Vega-Lite specifications without the page's colours."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, NamedTuple

from n2n_gym.report.content import Found

SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"  # nothing is loaded
NAMES: Final = {"reinforce": "REINFORCE", "random": "random search"}
CHOSEN: Final = "#D55E00"
MOST_CLASSES: Final = 24  # in the confusion matrix


class Chart(NamedTuple):
    """One chart: its name, title, description in words, and specification."""

    name: str
    title: str
    text: str
    spec: dict[str, Any]


def charts(found: Found) -> list[Chart]:
    """All charts of a report."""
    return [search_chart(found), size_chart(found), class_chart(found), errors(found)]


def search_chart(found: Found) -> Chart:
    """Each student's reward and the best reward so far, over the search."""
    searches = _searches(found)
    words = []
    for name in searches:
        own = [trial for trial in found.trials if _label(trial.search) == name]
        top = max(own, key=lambda trial: trial.reward)
        words.append(
            f"{name} found its best reward, {top.reward:.4f}, as student "
            f"{top.number} of {own[-1].number}"
        )
    scale = {"zero": False}
    x = {"field": "number", "type": "quantitative", "title": "student"}
    layers = [
        {
            "mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.45},
            "encoding": {
                "y": number("reward", "reward", scale),
                "tooltip": _tooltip(),
            },
        },
        {
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
            "encoding": {"y": number("best", "reward", scale)},
        },
    ]
    spec = {
        "data": {"values": _rows(found)},
        "encoding": {"x": x, "color": _colour(searches)},
        "layer": layers,
    }
    text = f"{'; '.join(words)}. Points are students, lines the best so far."
    return Chart("search", "The search", text, framed(spec, text))


def size_chart(found: Found) -> Chart:
    """Accuracy against parameters of every student, with the Pareto front."""
    whole, final = found.summary["teacher"], found.summary["student"]
    marked = [
        {"what": what, "num_params": row["num_params"], "accuracy": row["accuracy"]}
        for what, row in (("teacher", whole), ("the student written", final))
    ]
    # For a logarithmic axis: ticks without a label get no grid line.
    labelled = {"condition": {"test": "datum.label == ''", "value": 0}, "value": 1}
    x = {
        "field": "num_params",
        "type": "quantitative",
        "title": "parameters",
        "scale": {"type": "log", "nice": False},
        "axis": {"format": "~s", "tickCount": 6, "gridOpacity": labelled},
    }
    y = number("accuracy", "validation accuracy", {"zero": False}, "~%")
    layers = [
        {
            "data": {"values": _rows(found)},
            "mark": {"type": "point", "filled": True, "size": 26, "opacity": 0.5},
            "encoding": {
                "x": x,
                "y": y,
                "color": _colour(_searches(found)),
                "tooltip": _tooltip(),
            },
        },
        {
            "data": {"values": [asdict(trial) for trial in found.front]},
            "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3]},
            "encoding": {"x": x, "y": y},
        },
        {
            "data": {"values": marked},
            "mark": {
                "type": "point",
                "shape": "diamond",
                "size": 140,
                "filled": True,
                "color": CHOSEN,
            },
            "encoding": {"x": x, "y": y, "tooltip": _marked_tooltip()},
        },
        {
            "data": {"values": marked},
            "mark": {"type": "text", "dy": -14, "fontSize": 12},
            "encoding": {"x": x, "y": y, "text": {"field": "what"}},
        },
    ]
    text = (
        f"{len(found.front)} of {len(found.trials)} students lie on the Pareto front "
        f"(dashed): none is both smaller and more accurate. Accuracies of the search's "
        f"cheap scores; those of the teacher and of the student written (diamonds) "
        f"are after full training."
    )
    return Chart("size", "Accuracy and size", text, framed({"layer": layers}, text))


def class_chart(found: Found) -> Chart:
    """Test accuracy of teacher and student on each class."""
    test = found.summary["test"]
    rows = []
    for network in ("teacher", "student"):
        for i, name in enumerate(test["classes"]):
            counts = test[network]["confusion"][i]
            rows.append(
                {
                    "class": name,
                    "network": network,
                    "accuracy": counts[i] / max(1, sum(counts)),
                    "images": sum(counts),
                }
            )
    gaps = {
        mine["class"]: mine["accuracy"] - whole["accuracy"]
        for whole, mine in zip(rows, rows[len(rows) // 2 :], strict=False)
    }
    worst = min(gaps, key=lambda name: gaps[name])
    spec = {
        "data": {"values": rows},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "class",
                "type": "nominal",
                "sort": None,
                "axis": {"labelAngle": 0, "labelOverlap": True, "title": "class"},
            },
            "y": number("accuracy", found.test_figure, {"domain": [0, 1]}, "~%"),
            "xOffset": {"field": "network", "sort": None},
            "color": _colour(["teacher", "student"], "network"),
            "tooltip": [
                {"field": "class"},
                {"field": "network"},
                {"field": "accuracy", "format": ".2%"},
                {"field": "images"},
            ],
        },
    }
    text = (
        f"The student loses most on class {worst} ({gaps[worst]:+.1%})."
        if gaps[worst] < 0
        else "The student loses on no class."
    )
    if found.test_figure != "test accuracy":
        text = "Classes are the teacher's answers. " + text
    return Chart("classes", "Accuracy by class", text, framed(spec, text))


def errors(found: Found) -> Chart:
    """The student's confusion matrix: true against predicted classes."""
    test = found.summary["test"]
    names, matrix = test["classes"], test["student"]["confusion"]
    shown = _most_confused(matrix)
    cells = [
        {
            "class": names[i],
            "answer": names[j],
            "images": matrix[i][j],
            "of": sum(matrix[i]),
        }
        for i in shown
        for j in shown
    ]
    text = _say_errors(cells, is_labelled=found.test_figure == "test accuracy")
    if len(shown) < len(names):
        text += f" Of {len(names)} classes, the {len(shown)} most often mistaken."
    return Chart("errors", "Confusion", text, framed(_matrix(cells), text))


def _say_errors(cells: list[dict[str, Any]], *, is_labelled: bool) -> str:
    """The most frequent mistake, in words."""
    wrong = [cell for cell in cells if cell["class"] != cell["answer"]]
    worst = max(wrong, key=lambda cell: cell["images"])
    if is_labelled and not worst["images"]:
        return "The student makes no mistake."
    if is_labelled:
        return (
            f"The student's most frequent mistake: {worst['class']} taken for "
            f"{worst['answer']}, in {worst['images']} of its {worst['of']} images."
        )
    if not worst["images"]:
        return "The student answers as the teacher does."
    return (
        f"Rows are the teacher's answers, as the images have no labels. Most "
        f"often, {worst['answer']} stands for the teacher's {worst['class']}: "
        f"{worst['images']} of {worst['of']} images."
    )


def _matrix(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The confusion matrix as a chart; mistakes show their number of images."""
    colour = {
        "field": "images",
        "type": "quantitative",
        "scale": {"type": "sqrt"},
        "legend": None,
    }
    tooltip = [{"field": "class"}, {"field": "answer"}, {"field": "images"}]
    mistakes = "datum.images > 0 && datum.class != datum.answer"
    return {
        "data": {"values": cells},
        "encoding": {
            "x": {
                "field": "answer",
                "type": "nominal",
                "sort": None,
                "axis": {"labelAngle": 0, "labelOverlap": True},
                "title": "taken for",
            },
            "y": {
                "field": "class",
                "type": "nominal",
                "sort": None,
                "axis": {"titlePadding": 14},
            },
        },
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {"color": colour, "tooltip": tooltip},
            },
            {
                "transform": [{"filter": mistakes}],
                "mark": {"type": "text", "fontSize": 12},
                "encoding": {"text": {"field": "images"}, "tooltip": tooltip},
            },
        ],
    }


def _most_confused(matrix: list[list[int]]) -> list[int]:
    """The ``MOST_CLASSES`` classes with the most mistakes, in the original order."""
    columns = zip(*matrix, strict=True)
    wrong = [
        sum(row) + sum(column) - 2 * row[i]
        for i, (row, column) in enumerate(zip(matrix, columns, strict=True))
    ]
    order = sorted(range(len(matrix)), key=lambda i: -wrong[i])
    return sorted(order[:MOST_CLASSES])


def framed(spec: dict[str, Any], text: str) -> dict[str, Any]:
    """The chart at the width of its container, with a text for screen readers."""
    size = {"width": "container", "height": 300, "autosize": {"type": "fit"}}
    return {"$schema": SCHEMA, "description": text, **size, **spec}


def _searches(found: Found) -> list[str]:
    return list(dict.fromkeys(_label(trial.search) for trial in found.trials))


def _rows(found: Found) -> list[dict[str, Any]]:
    whole = found.teacher.num_params
    return [
        {
            **asdict(trial),
            "search": _label(trial.search),
            "fingerprint": trial.fingerprint[:8],
            "smaller": round(whole / trial.num_params, 1),
        }
        for trial in found.trials
    ]


def number(
    field: str, title: str, scale: dict[str, Any], form: str | None = None
) -> dict[str, Any]:
    """A quantitative encoding channel of Vega-Lite."""
    axis = {"format": form} if form else {}
    kind = "quantitative"
    return {"field": field, "type": kind, "title": title, "scale": scale, "axis": axis}


def _label(search: str) -> str:
    return NAMES.get(search, search)


def _colour(names: list[str], field: str = "search") -> dict[str, Any]:
    """A colour channel of Vega-Lite: one of the page's colours for each name."""
    scale = {"domain": names}
    legend = {"title": None, "orient": "top", "offset": 22, "symbolOpacity": 1}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def _tooltip() -> list[dict[str, Any]]:
    return [
        {"field": "fingerprint", "title": "student"},
        {"field": "stage"},
        {"field": "reward", "format": ".4f"},
        {"field": "accuracy", "format": ".2%"},
        {"field": "num_params", "title": "parameters", "format": ","},
        {"field": "smaller", "title": "times smaller"},
    ]


def _marked_tooltip() -> list[dict[str, Any]]:
    return [
        {"field": "what"},
        {"field": "accuracy", "format": ".2%"},
        {"field": "num_params", "title": "parameters", "format": ","},
    ]
