"""The search within limits that begins at uniform width."""

from __future__ import annotations

import json

import pytest

from n2n_gym.compression.local_search import LocalSearch
from n2n_gym.envs import ShrinkEnv
from n2n_gym.limits.constraints import ACCURACY
from n2n_gym.limits.fitting import aims_by, widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.layers import Conv
from n2n_gym.networks.scaling import OutOfReach, uniform_within, widest_rates
from n2n_gym.resources import RESOURCES, load_meter
from n2n_gym.rewards import Toward
from tests.test_requirements import compress


def scored(teacher, limits, *, generations=4, seed=0, block=1, **arguments):
    """Rewards and infos of a local search, by the evaluator "inherit"."""
    found = []
    arguments = {"evaluator": "inherit", "reward": Toward(limits)} | arguments
    env = ShrinkEnv(teacher, store=False, constraints=limits, **arguments)
    search = LocalSearch(env, block=block, seed=seed)
    search.run(generations, 5, lambda reward, info: found.append((reward, info)))
    return found


def kernels(network: Architecture) -> list[tuple[int, int]]:
    return [each.kernel for each in network.layers if isinstance(each, Conv)]


def test_it_begins_at_uniform_width_and_all_keep_the_limits(teacher):
    size = teacher.architecture.num_params / 4
    found = scored(teacher, {"num_params": size})
    assert len(found) == 20
    first = Architecture.from_json(found[0][1]["student"])
    requirements = Requirements.read(teacher.architecture, {"num_params": size})
    assert first.num_params == pytest.approx(
        widest_uniform(requirements).num_params, rel=0.05
    )
    assert kernels(first) == kernels(teacher.architecture)
    assert all(info["violated"] == "" for _, info in found)
    assert all(info["num_params"] <= size for _, info in found)
    assert all(0.8 * size < info["num_params"] for _, info in found[:5])
    assert len({info["fingerprint"] for _, info in found}) == 20


def test_widths_are_blocks_of_channels_where_that_is_asked_for(teacher):
    whole = teacher.architecture
    found = scored(teacher, {"num_params": whole.num_params / 2}, block=4)
    students = [Architecture.from_json(info["student"]) for _, info in found]
    widths = {
        layer.width
        for student in students
        for layer in student.layers
        if isinstance(layer, Conv)
    }
    assert len(widths) > 2
    assert all(width % 4 == 0 for width in widths)
    assert all(info["violated"] == "" for _, info in found)


def test_a_generation_descends_from_the_best_before_it(teacher):
    # What is best is told by another measure than accuracy: few channels at the start.
    size = teacher.architecture.num_params / 4
    first = shrinkages(teacher.architecture, ("width",))[0]

    def width(info) -> int:
        student = Architecture.from_json(info["student"])
        return student.shape_of(student.positions[first.name])[0]

    found = scored(
        teacher,
        {"num_params": size},
        generations=20,
        evaluator="size",
        reward=lambda mine, theirs: -mine.resources["first"],
        resources={"first": lambda s, t: s.shape_of(s.positions[first.name])[0]},
    )
    widths = [width(info) for _, info in found]
    assert min(widths[-25:]) == min(widths) < widths[0] / 2
    assert sum(widths[-25:]) / 25 < sum(widths[:25]) / 25


def test_the_same_seed_finds_the_same(teacher):
    limits = {"num_params": teacher.architecture.num_params / 4}
    one, same, other = (scored(teacher, limits, seed=seed) for seed in (0, 0, 1))
    prints = [[info["fingerprint"] for _, info in each] for each in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_it_ends_where_nothing_keeps_the_limits(teacher):
    assert scored(teacher, {"num_params": 10}) == []


def test_what_cannot_be_measured_is_never_scored(teacher):
    def odd(student: Architecture, whole: Architecture) -> float:
        if student != whole and int(student.fingerprint, 16) % 2:
            raise TimeoutError("the board did not answer")
        return float(student.num_params)

    size = teacher.architecture.num_params / 4
    found = scored(teacher, {"odd": size}, resources={"odd": odd})
    assert found
    assert all("error" not in info for _, info in found)


def test_rates_grow_together_up_to_what_the_limits_allow(teacher):
    whole = teacher.architecture
    start = dict.fromkeys(shrinkages(whole), 0.5)
    first = next(iter(start))
    start[first] = 0.9

    def within(share):
        return lambda student: student.num_params <= share * whole.num_params

    rates = widest_rates(whole, start, within(0.02), 12, most=2.0)
    widths = {each: rate for each, rate in rates.items() if each.variable == "width"}
    assert {rate for each, rate in rates.items() if each not in widths} == {0.5}
    (factor,) = {round(rate / start[each], 9) for each, rate in widths.items()}
    assert 0 < factor < 1
    assert within(0.02)(shrink(whole, rates))
    # Where all is allowed, a rate ends at 1 and the others go on.
    rates = widest_rates(whole, start, within(1), 12, most=2.0)
    assert rates[first] == 1.0
    others = [rates[each] for each in widths if each != first]
    assert others == pytest.approx([1.0] * len(others), abs=0.01)
    with pytest.raises(OutOfReach, match="no width is within the limits"):
        widest_rates(whole, start, within(1e-6), 12)
    assert uniform_within(whole, within(1), 12).num_params <= whole.num_params


def test_predictions_are_held_against_the_uniform_width(teacher):
    whole = teacher.architecture
    size = RESOURCES["peak_bytes"](whole, whole)
    requirements = Requirements.read(whole, {"peak_bytes": size / 2})

    def low(student: Architecture, whole: Architecture) -> float:
        return 0.8 * RESOURCES["peak_bytes"](student, whole)

    meter = load_meter(["peak_bytes"], {"peak_bytes": low})
    assert aims_by(requirements, requirements.meter) == requirements.aims
    assert aims_by(requirements, meter)["peak_bytes"] == pytest.approx(0.4 * size)
    # Where uniform width is out of reach there is nothing to hold them against.
    tight = Requirements.read(whole, {"peak_bytes": 10})
    assert aims_by(tight, meter) == tight.aims


@pytest.mark.slow
def test_a_run_within_limits_has_its_students_and_goes_on_in_them(tmp_path, teacher):
    size = teacher.architecture.num_params // 4
    arguments = ["--max-params", size, "--no-controls", "--output", tmp_path / "run"]
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    path = tmp_path / "run" / "history.jsonl"
    before = path.read_text()
    lines = [json.loads(line) for line in before.splitlines()]
    local = [i for i, line in enumerate(lines) if line["search"] == "local search"]
    assert len(local) == 20
    assert all(lines[i]["stage"] == "shrink" for i in local)
    assert all(lines[i][ACCURACY] > 0 for i in local)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "local search, shrink" in page
    (tmp_path / "run" / "summary.json").unlink()
    kept = before.splitlines(keepends=True)[: local[7]]
    path.write_text("".join(kept))
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    assert path.read_text() == before
