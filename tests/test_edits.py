"""Properties of every legal student, whatever the decisions."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    remove,
    shrink,
    shrinkages,
)
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import IMAGE, NETWORKS, TEACHERS

STARTS = (*TEACHERS, *(network.__name__ for network in NETWORKS))
EXAMPLES = settings(max_examples=15, deadline=None)


@cache
def start_of(name: str) -> Architecture:
    if name in TEACHERS:
        return teacher_architecture(name, Task("none", (3, 32, 32), 10, dict))
    network = next(n for n in NETWORKS if n.__name__ == name)
    return trace(network(), IMAGE)


@cache
def removals_of(name: str) -> tuple[Removal, ...]:
    return removals(start_of(name))


def legal_set(name: str, wanted: list[bool]) -> list[Removal]:
    """The decisions of an episode that removes what is wanted where that is legal."""
    start, taken = start_of(name), []
    left = start.rewire(set(), set())
    for removal, is_wanted in zip(removals_of(name), wanted, strict=True):
        wiring = legal_removal(start, taken, left, removal) if is_wanted else None
        if wiring is not None:
            assert wiring.num_params <= left.num_params
            assert wiring.num_macs <= left.num_macs
            taken, left = [*taken, removal], wiring
    return taken


def assert_counts(student: Architecture) -> None:
    """It runs, and has the parameters and MACs that torch counts."""
    module = build(student, "meta").eval()
    assert sum(p.numel() for p in module.parameters()) == student.num_params
    images = torch.empty(1, *student.input_shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        assert module(images).shape == (1, 10)
    assert counter.get_total_flops() == 2 * student.num_macs


@pytest.mark.parametrize("name", STARTS)
@EXAMPLES
@given(data=st.data())
def test_every_legal_student_builds_and_counts_as_torch_does(name, data):
    count = len(removals_of(name))
    wanted = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    student = remove(start_of(name), legal_set(name, wanted))
    assert_counts(student)
    assert Architecture.from_json(student.to_json()) == student

    found = shrinkages(student)
    rates = data.draw(
        st.lists(st.sampled_from(RATES), min_size=len(found), max_size=len(found))
    )
    shrunk = shrink(student, dict(zip(found, rates, strict=True)))
    assert_counts(shrunk)
    assert shrunk.num_params <= student.num_params
    assert shrunk.num_macs <= student.num_macs
    assert Architecture.from_json(shrunk.to_json()) == shrunk


@pytest.mark.parametrize("name", STARTS)
@EXAMPLES
@given(data=st.data())
def test_any_order_of_the_same_decisions_gives_the_same_student(name, data):
    count = len(removals_of(name))
    wanted = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    taken = legal_set(name, wanted)
    shuffled = data.draw(st.permutations(taken))
    start = start_of(name)
    student = remove(start, taken)
    assert remove(start, shuffled).fingerprint == student.fingerprint

    found = shrinkages(student)
    rates = {s: data.draw(st.sampled_from(RATES)) for s in found}
    reverse = dict(reversed(rates.items()))
    assert shrink(student, rates).fingerprint == shrink(student, reverse).fingerprint


@pytest.mark.parametrize("name", STARTS)
def test_no_decisions_leave_the_start(name):
    start = start_of(name)
    assert remove(start, []).fingerprint == start.fingerprint
    assert shrink(start, {}).fingerprint == start.fingerprint
