"""Runs with --minutes: their decisions, kept and repeated."""

import json
import time

import pytest

from n2n_gym.common.quantities import read_minutes
from n2n_gym.compression import plan as plans
from n2n_gym.compression.plan import Pace, Plan, final_epochs
from n2n_gym.compression.timing import ROUNDS, SHORTER, Timed


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


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"decisions": 3}', '{"decisions": [], "seconds": "x"}']
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


def timed(tmp_path, clock, seconds: float, *, workers: int = 2, **more) -> Timed:
    """A plan for students that take a second each in the search, and 0.2 s per
    epoch.
    """
    pace = Pace()
    pace.amount, pace.seconds = 10, 10.0 / workers
    plan = Plan(tmp_path / "plan.json", seconds, clock.now)
    options = {"with_controls": True, "is_limited": False, **more}
    return Timed(plan, pace, workers, 5.0, lambda: 3.0, **options)


def play(timing: Timed, clock: Clock, *, slower: float = 1.0) -> float:
    """A run in which everything takes as long as estimated; returns the seconds
    used.
    """
    timing.start_search()
    each = timing.scores.seconds / timing.scores.amount * slower
    stages = {"reinforce: remove": timing.removal_updates}
    stages["reinforce: shrink"] = timing.shrinkage_updates
    if timing.is_limited:
        stages["local search: shrink"] = timing.local_updates
    for stage, updates in stages.items():
        for update in range(updates()):
            clock.now += 5 * each
            if timing.is_enough(stage, 5 * (update + 1)):
                break
    counts = timing.rounds()
    for number, count in enumerate(counts):
        epochs = timing.epochs(number)
        for _ in range(timing.seeds() if number == len(counts) - 1 else 1):
            seconds = timing._waves(count) * epochs * 0.2 * slower
            clock.now += seconds
            timing.distilled(count, epochs, seconds)
    if timing.with_controls and timing.allows_controls():
        clock.now += timing._waves(2) * epochs * 0.2 * slower
    clock.now += timing.reserve
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
    if seconds <= 240 and workers < 8:  # else nothing more would help
        assert used >= 0.8 * seconds


@pytest.mark.parametrize("slower", [0.5, 1.5, 2.0, 3.0])
def test_a_machine_that_is_busy_since_is_taken_into_account(tmp_path, clock, slower):
    timing = timed(tmp_path, clock, 240)
    assert play(timing, clock, slower=slower) <= 1.05 * 240


def test_with_little_time_fewer_are_distilled_and_longer(tmp_path, clock):
    long, short = (timed(tmp_path / str(s), clock, s) for s in (2000, 17))
    for timing in (long, short):
        timing.plan.path.parent.mkdir()
        timing.start_search()
    assert long.rounds() == [count for count, _ in ROUNDS]
    assert short.rounds() == [count for count, _ in SHORTER[-1]]


@pytest.mark.parametrize(
    ("seconds", "a_view", "num_variants"), [(240, 0.0, 8), (240, 100, 1), (240, 10, 4)]
)
def test_images_have_as_many_forms_as_the_teacher_has_time_for(
    tmp_path, clock, seconds, a_view, num_variants
):
    timing = timed(tmp_path, clock, seconds)
    timing.seconds_a_variant = lambda: a_view
    assert timing.num_variants() == num_variants
    timing.seconds_a_variant = lambda: 0.0
    assert timing.num_variants() == num_variants  # it was decided


def test_the_last_epochs_are_in_the_plan(tmp_path, clock):
    timing = timed(tmp_path, clock, 240)
    play(timing, clock)
    last = len(timing.rounds()) - 1
    assert final_epochs(tmp_path / "plan.json") == timing.epochs(last)


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
