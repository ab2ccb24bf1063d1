import copy
import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from n2n_gym.evaluators import rungs
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.pytorch import checkpoint as checkpoints
from n2n_gym.pytorch.checkpoint import resumable
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.inference import compute_accuracy, recompute_statistics
from n2n_gym.pytorch.inputs import Normalisation, cut_out, resized
from n2n_gym.pytorch.recipe import ADDED, Recipe
from n2n_gym.pytorch.training import (
    Diverged,
    distillation_loss,
    one_cycle,
    side_at,
    train,
    update_average,
)
from n2n_gym.scores import canonical
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split

CPU = torch.device("cpu")
PLAIN = Normalisation((0.0,), (1.0,))
# SHA-256 of the recipes of all rungs, as they stood in keys before fields were added.
AS_WRITTEN = "dd64b9f9af0a5056"


def two_classes(count: int = 64) -> Split:
    """Dark images of class 0, bright ones of class 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 1, 4, 4), generator=generator)
    return Split((noise + 150 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def test_the_loss_is_cross_entropy_plus_squared_distance_of_logits():
    outputs = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    labels = torch.tensor([0, 1])
    logits = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    hard = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    distance = (1 + 4) / 2
    recipe = Recipe(epochs=1, logit_weight=0.1)
    loss = distillation_loss(outputs, labels, logits, recipe)
    assert loss.item() == pytest.approx(hard + 0.1 * distance)
    logits_alone = Recipe(epochs=1, hard_weight=0, logit_weight=2.0)
    loss = distillation_loss(outputs, labels, logits, logits_alone)
    assert loss.item() == pytest.approx(2 * distance)


def test_with_a_temperature_the_logits_loss_is_a_divergence():
    outputs, logits = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    recipe = Recipe(1, hard_weight=0.0, logit_weight=1.0, temperature=2.0)
    loss = distillation_loss(outputs, torch.tensor([0]), logits, recipe)
    # At T = 2 the teacher gives 3/4 and 1/4, the network 1/2 and 1/2.
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert loss.item() == pytest.approx(4 * divergence)
    tall = replace(recipe, temperature=50.0)
    loss = distillation_loss(outputs, torch.tensor([0]), logits, tall)
    # The distance of centred logits, / (2 * 2 classes).
    assert loss.item() == pytest.approx(2 * math.log(3) ** 2 / 4, rel=1e-2)


def test_keys_of_scores_are_those_from_before_fields_were_added():
    names = ("INHERIT", "ELASTIC", "SHORT", "QUICK", "PAPER", "FULL", "BENCH_V1")
    written = canonical([getattr(rungs, name).as_written() for name in names])
    assert hashlib.sha256(written.encode()).hexdigest().startswith(AS_WRITTEN)


@pytest.mark.parametrize("name", ADDED)
def test_an_added_field_is_in_the_key_if_it_is_used(name):
    recipe = replace(FULL.recipe, **{name: 0.7})
    assert recipe.as_written()[name] == 0.7
    assert replace(FULL, recipe=recipe).as_written()["recipe"][name] == 0.7


def test_a_network_learns_what_is_easy():
    split = two_classes()
    with seeded(0, CPU) as generator:
        network = small_network()
        train(network, split, PLAIN, Recipe(10, batch_size=16), generator)
    assert not network.training
    assert compute_accuracy(network, split, PLAIN) == 1.0


def test_training_is_the_same_for_the_same_seed_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU) as generator:
            network = small_network()
            train(network, two_classes(), PLAIN, Recipe(2), generator)
        weights.append(network[0].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_changes_the_images_that_train():
    weights = []
    for augment in (None, Augmentation(), Augmentation(padding=2), Augmentation(2)):
        with seeded(0, CPU) as generator:
            network = small_network()
            recipe = Recipe(2, batch_size=16)
            train(network, two_classes(), PLAIN, recipe, generator, augment=augment)
        weights.append(network[0].weight)
    none, nothing, crop, again = weights
    assert torch.equal(none, nothing)
    assert torch.equal(crop, again)
    assert not torch.equal(none, crop)


def test_logits_alone_can_teach():
    split = two_classes()
    logits = nn.functional.one_hot(1 - split.labels, 2) * 8.0 - 4  # all wrong
    recipe = Recipe(20, batch_size=16, hard_weight=0, logit_weight=0.1)
    with seeded(0, CPU) as generator:
        network = small_network()
        train(network, split, PLAIN, recipe, generator, logits=logits)
    assert compute_accuracy(network, split, PLAIN) == 0.0


def test_a_diverged_training_says_so():
    recipe = Recipe(3, batch_size=16, learning_rate=1e30)
    network, generator = small_network(), torch.Generator()
    with pytest.raises(Diverged, match="the loss became"):
        train(network, two_classes(), PLAIN, recipe, generator)


def test_gradients_are_clipped_to_the_largest():
    split, start = two_classes(16), small_network()
    before = start[5].bias.detach().clone()
    recipe = Recipe(
        1,
        batch_size=16,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        largest_gradient=1e-3,
        warmup_share=0.0,
    )
    with seeded(0, CPU) as generator:
        train(start, split, PLAIN, recipe, generator)
    assert (start[5].bias - before).norm() <= 1e-3


def test_the_learning_rate_rises_and_falls():
    rates = [one_cycle(progress, 0.25) for progress in (0, 0.125, 0.25, 0.625, 1)]
    assert rates == pytest.approx([0.05, 0.525, 1.0, 0.5, 0.0])


def test_a_power_makes_the_learning_rate_fall_earlier():
    for progress in (0.0, 0.1, 0.25, 0.3, 0.77, 1.0):
        usual = one_cycle(progress, 0.25)
        assert one_cycle(progress, 0.25, 1.0) == usual
        power = 1 if progress < 0.25 else 2
        assert one_cycle(progress, 0.25, 2.0) == pytest.approx(usual**power)


def test_images_grow_to_their_own_size():
    sides = [side_at(progress, 0.5) for progress in (0, 0.4, 0.8, 1)]
    assert sides == pytest.approx([0.5, 0.75, 1.0, 1.0])
    assert side_at(0.3, 1.0) == 1.0
    images = torch.rand(2, 3, 32, 24)
    assert resized(images, 1.0) is images
    assert resized(images, 0.5).shape == (2, 3, 16, 12)
    assert resized(images, 0.97) is images  # a multiple of four
    assert resized(images, 0.01).shape == (2, 3, 4, 4)
    assert resized(torch.rand(1, 1, 3, 3), 0.5).shape == (1, 1, 3, 3)
    torch.testing.assert_close(
        resized(torch.ones(1, 1, 8, 8), 0.5), torch.ones(4, 4)[None, None]
    )


def test_a_square_of_each_image_is_blanked():
    generator = torch.Generator().manual_seed(0)
    blanked = cut_out(torch.ones(500, 2, 8, 8), 0.5, generator) == 0
    assert torch.equal(blanked[:, 0], blanked[:, 1])
    rows, columns = blanked[:, 0].any(2).sum(1), blanked[:, 0].any(1).sum(1)
    assert torch.equal(blanked[:, 0].sum((1, 2)), rows * columns)  # rectangles
    assert (rows.max(), columns.max()) == (4, 4)
    assert (rows.min(), columns.min()) == (2, 2)  # half of it is outside
    assert blanked[:, 0].any(0).all()


def test_the_average_of_weights_is_exponential():
    network = nn.BatchNorm1d(1)
    averaged = {name: w.clone() for name, w in network.state_dict().items()}
    network.weight.data.fill_(3.0)
    network.num_batches_tracked.fill_(7)
    update_average(averaged, network, 0.75)
    assert averaged["weight"].item() == 0.75 * 1 + 0.25 * 3
    assert averaged["num_batches_tracked"].item() == 7


LATER = {
    "fall_power": 2.0,
    "average_share": 0.2,
    "smallest_side": 0.5,
    "cutout": 0.5,
    "temperature": 4.0,
}


@pytest.mark.parametrize("name", ADDED)
def test_an_added_field_changes_what_a_network_learns_and_it_still_learns(name):
    split = two_classes()
    images = split.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    split = Split(images, split.labels)
    weights = []
    for changes in ({}, {name: LATER[name]}):
        with seeded(0, CPU) as generator:
            network = small_network()
            recipe = Recipe(20, batch_size=16, logit_weight=0.1, **changes)
            logits = nn.functional.one_hot(split.labels, 2) * 4.0
            train(network, split, PLAIN, recipe, generator, logits=logits)
        weights.append(network[0].weight)
        assert compute_accuracy(network, split, PLAIN) == 1.0
    assert not torch.equal(*weights)


@pytest.mark.parametrize("count", [2, 16, 64])
def test_the_shortest_trainings_work(count):
    with seeded(0, CPU) as generator:
        recipe = Recipe(1, batch_size=16)
        train(small_network(), two_classes(count), PLAIN, recipe, generator)


def test_weights_decay_but_biases_and_normalisation_do_not():
    network = small_network()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    split = two_classes(16)
    recipe = Recipe(
        1, 16, 0.1, momentum=0.0, weight_decay=1.0, hard_weight=0, logit_weight=1e-12
    )
    with seeded(0, CPU) as generator:
        train(network, split, PLAIN, recipe, generator, logits=torch.zeros(16, 2))
    assert (network[0].weight < 0.999).all()
    torch.testing.assert_close(network[1].weight, torch.ones(4))
    torch.testing.assert_close(network[0].bias, torch.ones(4))


def test_statistics_are_the_mean_over_the_batches_given():
    network = nn.Sequential(nn.BatchNorm2d(1))
    network[0].running_mean.fill_(100)
    split = two_classes(10)
    recompute_statistics(network, split, PLAIN)
    pixels = split.images.float() / 255
    torch.testing.assert_close(network[0].running_mean, pixels.mean().view(1))
    torch.testing.assert_close(network[0].running_var, pixels.var().view(1))
    assert network[0].momentum == 0.1
    assert not network[0].training
    recompute_statistics(network, split, PLAIN, positions=torch.tensor([1, 7]))
    torch.testing.assert_close(network[0].running_mean, pixels[[1, 7]].mean().view(1))


def test_a_few_images_too_many_do_not_count_more_than_others():
    network = nn.Sequential(nn.BatchNorm2d(1))
    split = two_classes(10)
    split.images[8:] = 255  # in batches of eight, they would count as one of two
    recompute_statistics(network, split, PLAIN, batch_size=8)
    pixels = split.images.float() / 255
    torch.testing.assert_close(network[0].running_mean, pixels.mean().view(1))


def test_normalisation_takes_pixels_to_standard_inputs():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    inputs = Normalisation((0.5, 0.2), (0.25, 0.4))(images)
    assert inputs.flatten().tolist() == pytest.approx([-2.0, 2.0])


def test_an_unknown_device_is_refused_with_those_there_are():
    for name in ("tpu9", "meta", "warp:0"):
        with pytest.raises(ValueError, match=rf"unknown device '{name}'; .*cpu"):
            pick_device(name)
    assert pick_device("cpu") == CPU


def test_a_network_learns_in_bfloat16_and_keeps_its_weights_in_float32():
    split = two_classes()
    with seeded(0, CPU) as generator:
        network = small_network()
        recipe = Recipe(10, batch_size=16, precision="bfloat16")
        train(network, split, PLAIN, recipe, generator)
    assert compute_accuracy(network, split, PLAIN) == 1.0
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_training_goes_on_from_its_state_as_if_it_had_never_stopped():
    states: list[dict] = []

    def fresh():
        return nn.Sequential(nn.Dropout(0.2), *small_network())

    def learn(network, **arguments):
        with seeded(0, CPU) as generator:
            recipe = Recipe(4, batch_size=16)
            augment = Augmentation(1, flip=True)
            train(
                network,
                two_classes(),
                PLAIN,
                recipe,
                generator,
                augment=augment,
                **arguments,
            )
        return network.state_dict()

    torch.manual_seed(0)
    network = fresh()
    whole = learn(
        network, after_epoch=lambda state: states.append(copy.deepcopy(state()))
    )
    assert [state["epoch"] for state in states] == [1, 2, 3, 4]
    resumed = learn(fresh(), resume=states[1])  # other weights to begin with
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor)


def test_a_training_resumes_from_a_state_of_before_averages():
    recipe, states = Recipe(2, batch_size=16), []

    def learn(resume=None):
        with seeded(0, CPU) as generator:
            network = small_network()
            train(
                network,
                two_classes(),
                PLAIN,
                recipe,
                generator,
                after_epoch=lambda state: states.append(copy.deepcopy(state())),
                resume=resume,
            )
        return network.state_dict()

    whole = learn()
    del states[0]["averaged"]
    resumed = learn(states[0])
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize("average_share", [0.0, 0.5])
def test_a_killed_training_resumes_from_its_file(tmp_path, monkeypatch, average_share):
    monkeypatch.setattr(checkpoints, "KEEP_EVERY", 0.0)
    path = tmp_path / "network.checkpoint"
    recipe = Recipe(4, batch_size=16, average_share=average_share)
    about = {"recipe": recipe.as_written()}

    def learn(checkpoint, killed_at=None):
        steps = []

        def after_step():
            steps.append(1)
            if len(steps) == killed_at:
                raise KeyboardInterrupt

        with seeded(0, CPU) as generator:
            network = small_network()
            arguments = {**resumable(checkpoint, about), "after_step": after_step}
            train(network, two_classes(), PLAIN, recipe, generator, **arguments)
        return network.state_dict(), len(steps)

    whole, _ = learn(None)
    with pytest.raises(KeyboardInterrupt):
        learn(path, killed_at=10)  # in the third epoch
    resumed, steps = learn(path)
    assert steps == 8
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor)
