"""Runs with --minutes: their decisions, kept and repeated."""

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from n2n_gym.common.quantities import read_minutes
from n2n_gym.compression import plan as plans
from n2n_gym.compression.costs import SHOWN, Costs, Line, together
from n2n_gym.compression.pacing import ROUNDS
from n2n_gym.compression.plan import Plan, final_epochs
from n2n_gym.compression.timing import A_FILE, FINISH, SHORTER, Timed


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(plans, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5m", 300),
        ("2.5", 150),
        ("90s", 90),
        ("1h", 3600),
        ("1h30", 5400),
        ("1h30m", 5400),
        ("1h 5m 10s", 3910),
        ("15 min", 900),
    ],
)
def test_minutes_are_read_as_people_write_them(text, seconds):
    assert read_minutes(text) == seconds


@pytest.mark.parametrize("text", ["0", "0m", "", "-5", "five", "5d", "1h30x", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="such as 5, 5m, 90s or 1h30"):
        read_minutes(text)


def test_the_clock_decides_and_it_is_written_down(tmp_path, clock):
    plan = Plan(tmp_path / "plan.json", 100, clock.now)
    clock.now += 30
    assert plan.left == 70
    assert plan.decide("updates", lambda: int(plan.left / 7), 3) == 10
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert kept.pop("costs") == {}
    assert kept == {"seconds": 30, "of": 100, "decisions": [["updates", 10, 30]]}


def test_without_a_clock_options_decide_and_nothing_is_written(tmp_path):
    plan = Plan(tmp_path / "plan.json", None, time.monotonic())
    assert plan.decide("updates", lambda: 10, 3) == 3
    assert plan.left == float("inf")
    assert not plan.is_enough("search", 5, until=50)
    plan.keep()
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_decides_as_before_and_counts_all_its_time(tmp_path, clock):
    first = Plan(tmp_path / "plan.json", 100, clock.now)
    clock.now += 30
    first.decide("updates", lambda: 10, 3)
    clock.now += 500  # it was killed, and began again much later
    second = Plan(tmp_path / "plan.json", 100, clock.now)
    assert second.decide("updates", lambda: 99, 3) == 10
    clock.now += 20
    assert second.left == 50
    assert second.decide("epochs", lambda: 7, 3) == 7


def test_a_plan_is_repeated_without_a_clock(tmp_path, clock):
    first = Plan(tmp_path / "plan.json", 100, clock.now)
    first.decide("updates", lambda: 10, 3)
    clock.now += 60
    assert [first.is_enough("search", n, until=50) for n in (5,)] == [True]
    first.decide("epochs", lambda: 7, 3)
    clock.now += 10_000
    again = Plan(tmp_path / "other.json", None, clock.now, tmp_path / "plan.json")
    assert again.decide("updates", lambda: 99, 3) == 10
    assert [again.is_enough("search", n, until=50) for n in (1, 4, 5)] == [
        False,
        False,
        True,
    ]
    assert again.decide("epochs", lambda: 99, 3) == 7


def test_a_plan_of_a_run_that_was_stopped_is_not_repeated(tmp_path, clock):
    Plan(tmp_path / "plan.json", 100, clock.now).decide("updates", lambda: 10, 3)
    again = Plan(tmp_path / "mine.json", None, clock.now, tmp_path / "plan.json")
    assert again.decide("updates", lambda: 99, 3) == 10
    with pytest.raises(ValueError, match=r"plan\.json ends where 'epochs' is expected"):
        again.decide("epochs", lambda: 7, 3)


def test_a_stage_that_was_over_in_time_is_played_to_its_end_again(tmp_path, clock):
    first = Plan(tmp_path / "plan.json", 100, clock.now)
    assert not first.is_enough("search", 5, until=50)
    first.decide("epochs", lambda: 7, 3)
    clock.now += 99
    again = Plan(tmp_path / "plan.json", 100, clock.now)
    clock.now += 99
    assert not again.is_enough("search", 5, until=50)  # though the time is over now
    assert again.decide("epochs", lambda: 99, 3) == 7


def test_where_an_earlier_process_went_on_the_clock_is_not_asked(tmp_path, clock):
    """It was killed after seven students, before a decision."""
    first = Plan(tmp_path / "plan.json", 100, clock.now)
    assert not first.is_enough("search", 5, until=50)
    clock.now += 60
    first.keep()
    again = Plan(tmp_path / "plan.json", 100, clock.now)
    assert not again.is_enough("search", 5, until=50, is_replay=True)
    assert again.is_enough("search", 10, until=50)


def test_the_time_alone_is_written_once_a_second(tmp_path, clock):
    plan = Plan(tmp_path / "plan.json", 100, clock.now)
    plan.keep_time()
    assert not plan.path.exists()
    clock.now += 1.5
    plan.keep_time()
    clock.now += 0.5
    plan.keep_time()
    assert json.loads(plan.path.read_text())["seconds"] == 1.5


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"decisions": [], "seconds": 1, "costs": {"x": "y"}}',
        '{"decisions": 3}',
        '{"decisions": [], "seconds": "x"}',
    ],
)
def test_a_damaged_plan_is_refused_by_name(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json holds no plan"):
        Plan(path, 100, 0.0)
    with pytest.raises(ValueError, match=r"plan\.json holds no plan"):
        Plan(tmp_path / "mine.json", None, 0.0, path)


def test_a_plan_of_other_decisions_is_refused(tmp_path, clock):
    Plan(tmp_path / "plan.json", 100, clock.now).decide("updates", lambda: 10, 3)
    again = Plan(tmp_path / "mine.json", None, clock.now, tmp_path / "plan.json")
    with pytest.raises(ValueError, match="has 'updates' where 'epochs' is expected"):
        again.decide("epochs", lambda: 1, 3)


class Student(NamedTuple):
    """All that a plan asks of a student."""

    num_macs: float


SMALL, LARGE = Student(1e6), Student(200e6)
WHOLE = 400e6  # the teacher's MACs
IMAGES = 1_000


def seconds_of(macs: float, epochs: float = 1.0, images: int = IMAGES) -> float:
    """What one process of the machine of these tests needs: 20 billion MACs a second,
    three passes for each image, and some time that no MACs explain.
    """
    return epochs * images * (1e-4 + 3 * macs / 20e9)


def timed(
    tmp_path, clock, seconds: float, *, workers: int = 2, images=IMAGES, **more
) -> Timed:
    """A plan for students that have been scored at several sizes, five epochs each."""
    plan = Plan(tmp_path / "plan.json", seconds, clock.now)
    costs = Costs(plan.costs, images)
    for macs in (SMALL.num_macs, LARGE.num_macs, WHOLE):
        costs.image.add(macs, seconds_of(macs, images=1) / 3)
    epochs = 3_000 / images
    for macs in (1e6, 2e6, 4e6, 1e6, 8e6):
        costs.scored(macs, epochs, seconds_of(macs, epochs, images))
    options = {"with_controls": True, "is_limited": False, **more}
    return Timed(plan, costs, workers, 100, 100, WHOLE, **options)


def no_time(students: Sequence[Student]) -> None:
    """Training that nobody times, because its cost is known."""


def play(
    timing: Timed,
    clock: Clock,
    students: Sequence[Student] = (SMALL,) * 12,
    *,
    slower: float = 1.0,
    slower_finalists: float = 1.0,
) -> float:
    """A run with these finalists, on a machine that is so many times slower than at
    first, for finalists ``slower_finalists`` times again; returns the seconds used.
    """
    slower_training = slower * slower_finalists

    def distil(chosen, epochs: float) -> None:
        images = timing.costs.num_images
        each = [
            slower_training * seconds_of(s.num_macs, epochs, images) for s in chosen
        ]
        clock.now += together(each, timing.workers)
        for student, seconds in zip(chosen, each, strict=True):
            timing.distilled(student, epochs, seconds)

    timing.start_search()
    stages = {"reinforce: remove": timing.removal_updates}
    stages["reinforce: shrink"] = timing.shrinkage_updates
    if timing.is_limited:
        stages["local search: shrink"] = timing.local_updates
    for stage, updates in stages.items():
        for update in range(updates()):
            each = [slower * timing.costs.score()] * 5
            clock.now += together(each, timing.workers)
            if timing.is_enough(stage, 5 * (update + 1), is_replay=False):
                break

    def time_training(chosen: Sequence[Student]) -> None:
        images = timing.costs.num_images
        each = [
            slower_training * seconds_of(s.num_macs, images=sum(SHOWN)) for s in chosen
        ]
        clock.now += together(each, timing.workers)
        for student, seconds in zip(chosen, each, strict=True):
            timing.distilled(student, sum(SHOWN) / images, seconds)

    left = list(students)
    counts = timing.rounds(left)
    for number, fewer in enumerate((*counts[1:], 0)):
        if len(left) > fewer:
            positions, epochs = timing.plan_round(number, left, time_training)
            left = [left[n] for n in positions]
            for seed in range(timing.seeds() if not fewer else 1):
                if seed == 0 or timing.allows_seed(left):
                    distil(left, epochs)
    images = timing.num_validation + timing.num_test
    answers = [WHOLE, *(each.num_macs for each in left)]
    clock.now += slower * images * sum(map(timing.costs.image, answers))
    controls = [left[0]] * 2
    if timing.with_controls and timing.allows_controls(controls):
        distil(controls, timing.final_epochs)
    files = len(left) + 2 + 2 * timing.with_controls
    clock.now += FINISH + files * (2 + A_FILE)
    return timing.plan.used


@pytest.mark.parametrize("seconds", [60, 120, 240, 600])
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("with_controls", [True, False])
@pytest.mark.parametrize("is_limited", [True, False])
@pytest.mark.parametrize("most_seeds", [1, 2])
def test_the_time_is_used_and_not_exceeded(
    tmp_path, clock, seconds, workers, with_controls, is_limited, most_seeds
):
    more = {"with_controls": with_controls, "is_limited": is_limited}
    more["most_seeds"] = most_seeds
    timing = timed(tmp_path, clock, seconds, workers=workers, **more)
    used = play(timing, clock)
    assert used <= 1.05 * seconds
    if 120 <= seconds <= 240 and workers < 8:  # else nothing more would help
        assert used >= 0.8 * seconds


@pytest.mark.parametrize("slower", [0.5, 1.5, 2.0, 3.0])
def test_a_machine_that_is_busy_since_is_taken_into_account(tmp_path, clock, slower):
    timing = timed(tmp_path, clock, 240)
    assert play(timing, clock, slower=slower) <= 1.05 * 240


@pytest.mark.parametrize("seconds", [300, 600, 1800])
@pytest.mark.parametrize("num_large", [1, 3, 6, 12])
@pytest.mark.parametrize("is_first", [True, False])
def test_large_finalists_take_no_longer_than_the_minutes(
    tmp_path, clock, seconds, num_large, is_first
):
    """An epoch of a large one takes 22 minutes, one of a small one 11 seconds."""
    large, small = [LARGE] * num_large, [SMALL] * (12 - num_large)
    students = large + small if is_first else small + large
    timing = timed(tmp_path, clock, seconds, images=45_000)
    used = play(timing, clock, students)
    assert 0.7 * seconds <= used <= 1.05 * seconds


@pytest.mark.parametrize("slower", [0.7, 1.4, 2.0])
@pytest.mark.parametrize("macs", [100e6, 200e6])
def test_finalists_are_timed_before_their_only_round(tmp_path, clock, slower, macs):
    """The line of the search's small students says too little or too much of them."""
    timing = timed(tmp_path, clock, 1_800, images=45_000, with_controls=False)
    used = play(timing, clock, [Student(macs)] * 12, slower_finalists=slower)
    assert len(timing.rounds([])) == 1
    assert 0.8 * 1_800 <= used <= 1.05 * 1_800


def test_students_too_large_for_one_epoch_make_room_for_the_next_best(tmp_path, clock):
    timing = timed(tmp_path, clock, 90)
    timing.start_search()
    clock.now += 30
    giant, small = Student(WHOLE), [Student(n * 1e6) for n in (1, 2, 3)]
    students = [giant, small[1], giant, small[2], small[0]]
    assert timing.rounds(students) == [2]
    positions, epochs = timing.plan_round(0, students, no_time)
    assert positions == [1, 3]
    assert epochs >= 1
    assert dict(d[:2] for d in timing.plan.decisions)["candidates of round 1"] == 3


def test_without_the_time_for_one_epoch_of_anybody_a_part_of_it_is_trained(
    tmp_path, clock
):
    timing = timed(tmp_path, clock, 90, images=45_000)
    timing.start_search()
    clock.now += 60
    giant = Student(WHOLE)
    timing.rounds([giant, giant])
    positions, epochs = timing.plan_round(0, [giant, giant], no_time)
    assert len(positions) == 1
    assert epochs == round(1_250 / 45_000, 3)  # as many images as for a score


def test_a_second_seed_needs_its_time(tmp_path, clock):
    timing = timed(tmp_path, clock, 240)
    timing.start_search()
    last = len(timing.rounds([SMALL] * 12)) - 1
    _, epochs = timing.plan_round(last, [SMALL] * 3, no_time)
    assert timing.allows_seed([SMALL] * 3)
    clock.now += timing.plan.left - timing.reserve
    timing.distilled(SMALL, epochs, seconds_of(SMALL.num_macs, epochs))
    assert not timing.allows_seed([SMALL] * 3)


def test_the_answers_to_many_images_are_reserved(tmp_path, clock):
    """The teacher answers validation and test images, all students too."""
    timing = timed(tmp_path, clock, 600)
    before = timing.reserve
    timing.num_validation, timing.num_test = 5_000, 10_000
    teacher = timing.costs.image(WHOLE)
    assert timing.reserve - before >= 14_800 * teacher
    assert timing.evaluation == pytest.approx(15_000 * teacher)


def test_with_little_time_fewer_are_distilled_and_longer(tmp_path, clock):
    long, short = (timed(tmp_path / str(s), clock, s) for s in (2000, 26))
    for timing in (long, short):
        timing.plan.path.parent.mkdir()
        timing.start_search()
    assert long.rounds([SMALL] * 12) == [count for count, _ in ROUNDS]
    assert short.rounds([SMALL] * 12) == [count for count, _ in SHORTER[-1]]


@pytest.mark.parametrize(
    ("seconds", "a_view", "num_variants"), [(240, 0.0, 8), (240, 100, 1), (240, 10, 4)]
)
def test_images_have_as_many_forms_as_the_teacher_has_time_for(
    tmp_path, clock, seconds, a_view, num_variants
):
    timing = timed(tmp_path, clock, seconds)
    timing.decide_variants(lambda: a_view)
    assert timing.num_variants() == num_variants


def test_costs_are_known_to_the_process_that_goes_on(tmp_path, clock):
    first = timed(tmp_path, clock, 240)
    first.distilled(SMALL, 10, 3 * seconds_of(SMALL.num_macs, 10))  # busy since
    first.plan.keep()
    plan = Plan(tmp_path / "plan.json", 240, clock.now)
    costs = Costs(plan.costs, IMAGES)
    for macs in (1e6, 50e6):
        assert costs.epoch(macs) == pytest.approx(first.costs.epoch(macs))
        assert costs.epoch(macs) == pytest.approx(3 * seconds_of(macs))
    assert costs.score() == first.costs.score()


def test_each_distilled_student_writes_the_time_down(tmp_path, clock):
    timing = timed(tmp_path, clock, 240)
    for seconds in (20, 45):
        clock.now += 25
        timing.distilled(SMALL, 10, seconds)
    assert json.loads((tmp_path / "plan.json").read_text())["seconds"] == 50


def test_the_last_epochs_are_in_the_plan(tmp_path, clock):
    timing = timed(tmp_path, clock, 240)
    play(timing, clock)
    assert final_epochs(tmp_path / "plan.json") == timing.final_epochs >= 1


def test_a_part_of_an_epoch_is_read_as_it_was_planned(tmp_path, clock):
    plan = Plan(tmp_path / "plan.json", 100, clock.now)
    plan.decide("epochs of round 1", lambda: 0.28, 1.0)
    assert final_epochs(plan.path) == 0.28
    plan.decide("epochs of round 2", lambda: 3, 1.0)
    assert repr(final_epochs(plan.path)) == "3"  # as it is written in keys of scores


def test_a_plan_that_came_to_no_finalists_says_so(tmp_path, clock):
    timing = timed(tmp_path, clock, 240)
    timing.start_search()
    with pytest.raises(ValueError, match="no finalists yet"):
        final_epochs(tmp_path / "plan.json")


def test_a_wall_clock_that_jumps_changes_no_decision(tmp_path, monkeypatch):
    """As when a machine sets its clock, or summer time ends."""
    began = time.monotonic()
    plan = Plan(tmp_path / "plan.json", 100, began)
    for jump in (-1e9, 0.0, 1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
        assert plan.decide("seconds", lambda: plan.left, 0.0) == pytest.approx(
            100, abs=5
        )
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert all(0 <= at < 5 for _, _, at in kept["decisions"])
    again = Plan(tmp_path / "plan.json", 100, time.monotonic())
    assert again.left == pytest.approx(100, abs=5)


# The costs.


def test_a_line_through_measurements_is_found():
    line = Line([0.0] * 5)
    for macs in (1e6, 5e6, 300e6):
        line.add(macs, 0.2 + 3e-8 * macs)
    for macs in (1e5, 1e7, 1e9):
        assert line(macs) == pytest.approx(0.2 + 3e-8 * macs)


def test_neither_part_of_a_line_is_negative():
    falling, bent, single = (Line([0.0] * 5) for _ in range(3))
    for macs, seconds in ((1e6, 2.0), (1e8, 1.0)):
        falling.add(macs, seconds)
    assert falling(1e6) == falling(1e9) > 0
    for macs, seconds in ((1e6, 0.001), (1e8, 1.0)):
        bent.add(macs, seconds)
    assert bent(2e8) == pytest.approx(2 * bent(1e8))
    single.add(1e6, 2.0)
    assert single(3e6) == pytest.approx(6.0)


def test_a_free_worker_begins_the_next():
    assert together([4, 1, 1, 1], 2) == 4
    assert together([1, 1, 1, 4], 2) == 5
    assert together([2, 2, 2], 8) == 2
    assert together([], 2) == 0


def test_without_a_score_an_epoch_is_estimated_from_images(monkeypatch):
    costs = Costs({}, IMAGES)
    costs.image.add(1e6, 0.001)
    costs.scored_in(0.0, 10)  # by an evaluator of the user's that takes no time
    assert costs.score() == 0.0
    assert costs.epoch(2e6) >= 3 * IMAGES * 0.002
