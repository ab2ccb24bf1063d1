"""Imitation of the best: the arithmetic by hand."""

from __future__ import annotations

import pytest
import torch

from n2n_agents.imitation import Scored, best_of, imitation_loss
from n2n_agents.players import Episode


def scored(*actions: int, reward: float) -> Scored:
    nothing = torch.zeros(0)
    return Scored(actions, Episode(nothing, nothing, nothing, nothing, reward, {}))


def test_the_loss_is_minus_the_mean_log_likelihood_of_episodes():
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    loss = imitation_loss(log_probs)
    assert loss.item() == pytest.approx((3.0 + 0.5) / 2)
    loss.backward()
    assert log_probs.grad.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]


def test_the_queue_has_the_best_each_once():
    one, two = scored(0, 1, reward=0.5), scored(1, 1, reward=0.9)
    again, alike = scored(1, 1, reward=0.9), scored(0, 0, reward=0.5)
    worst = scored(1, 0, reward=-1.0)
    found = best_of([one, worst, two, again, alike], 3)
    assert [id(each) for each in found] == [id(two), id(one), id(alike)]
