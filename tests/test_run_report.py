"""The page that a run ends with: what it says, and that a browser shows it."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.compression.assessment import confusion, measure_latency
from n2n_gym.envs.render import bars
from n2n_gym.networks.architecture import Architecture
from n2n_gym.report import write_report
from n2n_gym.report.charts import errors
from n2n_gym.report.content import Found, _trials
from n2n_gym.report.diagram import draw
from n2n_gym.report.page import command, headline
from n2n_gym.runs.folder import read_summary

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(finished_run):
    return finished_run


@pytest.fixture(scope="module")
def found(folder):
    return Found.read(folder)


# What it says.


def test_every_student_of_the_search_is_a_trial(folder, found):
    lines = (folder / "history.jsonl").read_text().splitlines()
    searched = [line for line in map(json.loads, lines) if line["stage"] != "final"]
    assert [trial.reward for trial in found.trials] == [x["reward"] for x in searched]
    numbers = [trial.number for trial in found.trials if trial.search == "random"]
    assert numbers == list(range(1, 21))


def test_a_page_shows_the_classes_that_are_most_often_mistaken(found):
    count = 40
    matrix = [[2 * (i == j) for j in range(count)] for i in range(count)]
    matrix[30][35] = 7
    matrix[39][0] = 1
    summary = json.loads(json.dumps(found.summary))
    summary["test"]["student"]["confusion"] = matrix
    summary["test"]["classes"] = [f"c{i}" for i in range(count)]
    chart = errors(replace(found, summary=summary))
    shown = {cell["class"] for cell in chart.spec["data"]["values"]}
    assert len(shown) == 24
    assert {"c30", "c35", "c39", "c0"} <= shown
    assert (
        "c30 taken for c35, in 7 of its 9 images. Of 40 classes, the 24 most"
        in chart.text
    )


def test_a_student_that_falls_short_is_said_to(found):
    summary = json.loads(json.dumps(found.summary))
    for is_told in (True, False):
        summary["falls_short"] = is_told
        assert replace(found, summary=summary).falls_short == is_told
    del summary["falls_short"]  # a run of an earlier version
    summary["student"]["accuracy"] = summary["teacher"]["accuracy"] - 0.02
    assert replace(found, summary=summary).falls_short
    summary["student"]["accuracy"] = summary["teacher"]["accuracy"] - 0.005
    assert not replace(found, summary=summary).falls_short


def test_the_best_are_distinct_and_in_order(found):
    best = found.best
    assert len({trial.fingerprint for trial in best}) == len(best) == 10
    rewards = [trial.reward for trial in best]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] == max(trial.reward for trial in found.trials)


def test_the_best_keep_the_limits_of_the_run(folder, found):
    limits = [{"name": "num_params"}, {"name": "accuracy"}]
    within = Found.of(folder, {**found.summary, "limits": limits})
    assert not within.best  # this run's searches knew of none
    sizes = sorted(trial.num_params for trial in found.trials)
    bound = sizes[len(sizes) // 2]
    lines = []
    for line in map(json.loads, (folder / "history.jsonl").read_text().splitlines()):
        if "error" not in line and line["stage"] != "remove":
            line["excess_num_params"] = line["num_params"] - bound
        lines.append(line)
    path = folder.with_name("within.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trials = _trials(path, ["num_params"])
    best = replace(found, trials=trials).best
    assert best
    assert all(t.num_params <= bound and t.stage == "shrink" for t in best)


def test_nothing_is_better_than_the_front(found):
    for ours in found.front:
        for other in found.trials:
            smaller = other.num_params < ours.num_params
            assert not (smaller and other.accuracy >= ours.accuracy)
    sizes = [trial.num_params for trial in found.front]
    assert sizes == sorted(set(sizes))


def test_confusions_count_every_image(found):
    labels, answers = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    assert confusion(labels, answers, 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    test = found.summary["test"]
    for network in ("teacher", "student"):
        matrix = test[network]["confusion"]
        right = sum(row[i] for i, row in enumerate(matrix))
        assert sum(map(sum, matrix)) == test["num_images"] == 360
        row = found.summary[network]
        assert right / 360 == pytest.approx(row["test_accuracy"])
    gain = found.summary["student"]["test_accuracy"]
    gain -= found.summary["teacher"]["test_accuracy"]
    assert test["difference"] == pytest.approx(gain)
    assert 0 < test["error"] < 0.1


@pytest.mark.slow
def test_latencies_are_of_files_in_turn(folder):
    path = folder / "student.onnx"
    one, other = measure_latency([path, path], (1, 8, 8))
    assert one.ratio == 1
    assert 0.3 < other.ratio < 3


def test_the_command_makes_the_same_run(found, monkeypatch):
    runs = []
    monkeypatch.setattr("n2n_gym.cli.compression._run", runs.append)
    text = command(found.options)
    assert text.startswith("n2n-gym compress --teacher tests.networks:make_small")
    CliRunner().invoke(app, [*shlex.split(text)[1:], "--output", "elsewhere"])
    assert runs == [replace(found.options, output=Path("elsewhere"))]
    assert "--controls none" in command(replace(found.options, controls="none"))


def test_the_headline_has_units(found):
    figures = {figure.name: figure for figure in headline(found)}
    assert re.fullmatch(r"[\d.]+ (MB|kB)", figures["ONNX file"].value)
    assert re.fullmatch(r"[\d.]+ (ms|µs)", figures["latency of one image"].value)
    assert "95 % interval" in figures["test accuracy"].note


def test_the_diagram_says_what_became_of_each_layer(found):
    shown = bars(found.teacher, found.teacher, found.student, None)
    drawn = draw(found.teacher, found.student)
    assert drawn.count('class="ghost"') == len(shown)
    for state in ("kept", "shrunk", "removed"):
        expected = sum(bar.state == state for bar in shown)
        assert drawn.count(f'<span class="{state}">') == expected
        assert drawn.count(f'class="{state}"></i>') == expected * (state != "removed")
    assert 'role="img" aria-label="Of the teacher' in drawn


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        write_report(tmp_path)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no finished run" in " ".join(result.stderr.split())


def test_the_command_writes_it_again(folder):
    path = folder / "report.html"
    before = path.read_text()
    path.unlink()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert path.read_text() == before


def test_a_student_is_exported_by_its_fingerprint(folder, found, tmp_path):
    chosen = found.best[3]
    output = tmp_path / "exported"
    arguments = ["export", str(folder), "--student", chosen.fingerprint[:12]]
    result = CliRunner().invoke(app, [*arguments, "--output", str(output)])
    assert result.exit_code == 0, result.output
    student = Architecture.from_json((output / "architecture.json").read_text())
    assert student.fingerprint == chosen.fingerprint
    assert (output / "student.onnx").exists()
    result = CliRunner().invoke(app, ["export", str(folder), "--student", "xyz"])
    assert result.exit_code == 1
    assert "no student whose fingerprint begins with 'xyz'" in result.stderr


# That a browser shows it.


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        arguments = ["--no-sandbox"]  # containers have none
        browser = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def opened(browser, path):
    """A page with what it said and asked for, when its charts are drawn."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.seen = []
    page.on("console", lambda message: page.seen.append(message.text))
    page.on("pageerror", lambda error: page.seen.append(str(error)))
    page.on("request", lambda request: page.seen.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", timeout=30_000)
    return page


@pytest.fixture(scope="module")
def page(folder, browser):
    return opened(browser, folder / "report.html")


def test_it_opens_from_a_disk_without_a_request_or_an_error(page, folder):
    others = [x for x in page.seen if not x.startswith("data:")]
    assert others == [(folder / "report.html").as_uri()]


def test_its_charts_have_all_the_students(page, found):
    points = page.locator("#search path[aria-roledescription='point']")
    assert points.count() == len(found.trials)
    assert page.locator("#size path[aria-roledescription='point']").count() == (
        len(found.trials) + 2
    )
    assert page.locator("#classes path[aria-roledescription='bar']").count() == 20


def test_hovering_shows_values(page, found):
    bar = page.locator("#classes path[aria-roledescription='bar']").first
    bar.hover()
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    assert "teacher" in tooltip.inner_text()
    assert "%" in tooltip.inner_text()


def test_a_reader_that_does_not_see_finds_headings_and_texts(page):
    tree = page.locator("body").aria_snapshot()
    for heading in ("Compared", "Teacher and student", "The best students"):
        assert f'heading "{heading}" [level=2]' in tree
    assert len(re.findall(r"- '?img", tree)) == 5
    assert "convolutions and linear layers" in tree
    for chart in page.locator("figure .chart").all():
        assert len(chart.get_attribute("aria-label")) > 20


def test_a_button_copies_the_command_that_exports(page, folder, found):
    page.locator("tbody button").first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    student = found.best[0].fingerprint[:12]
    wanted = ["n2n-gym", "export", str(folder), "--student", student]
    assert shlex.split(copied) == wanted


def test_the_slider_shows_each_student_of_the_shelf(page, found):
    """By the keyboard and by the mouse."""
    shelf = sorted(found.summary["shelf"], key=lambda place: place["num_params"])
    assert len(shelf) > 1
    default = next(n for n, x in enumerate(shelf) if "student" in x["roles"])
    slider = page.locator("#pick")
    assert slider.input_value() == str(default)

    def shown() -> tuple[list[str], str]:
        figures = page.locator("#place dd.value").all_inner_texts()
        return figures, page.locator("#shelf-rows tr.chosen code").inner_text()

    slider.focus()
    page.keyboard.press("Home")
    for place in shelf:
        (times, accuracy, *_), file = shown()
        whole = found.summary["teacher"]["num_params"]
        assert times == f"{whole / place['num_params']:.3g}x"
        assert accuracy == f"{place['test_accuracy']:.2%}"
        assert file == place["file"]
        assert times in slider.get_attribute("aria-valuetext")
        page.keyboard.press("ArrowRight")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert shown()[1] == shelf[0]["file"]
    page.locator("#shelf-rows tr").nth(default).click()
    assert shown()[1] == shelf[default]["file"]
    assert slider.input_value() == str(default)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1200, "dark")])
def test_it_fits_a_phone_and_the_night(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, re.findall(r"\d+", paper)[:3])) < 200
    assert is_dark == (scheme == "dark")


def test_on_a_phone_nothing_is_beyond_the_edge(page):
    page.set_viewport_size({"width": 390, "height": 800})
    for place in page.locator(".scroll, .network").all():
        assert place.evaluate("it => it.scrollWidth <= it.clientWidth + 1")
    assert page.locator(".network span.teacher").first.is_hidden()


@pytest.mark.slow
def test_a_comparison_has_a_page_too(browser, tmp_path):
    arguments = ["compare", "--teacher", "tests.networks:make_small"]
    arguments += ["--task", "digits", "--evaluator", "size", "--evaluations", "12"]
    arguments += ["--agents", "random,evolution", "--seeds", "2", "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    page = opened(browser, tmp_path / "report.html")
    others = [x for x in page.seen if not x.startswith("data:")]
    assert others == [(tmp_path / "report.html").as_uri()]
    for chart in ("#curves0", "#curves1"):
        lines = page.locator(f"{chart} path[aria-roledescription='line mark']")
        assert lines.count() == 2
    text = page.locator("body").inner_text()
    assert "12 distinct students a run, 2 seeds" in text
    assert "comes first of 2 agents" in text


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"teacher": {}}'])
def test_a_summary_that_is_damaged_is_named(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        read_summary(tmp_path)
