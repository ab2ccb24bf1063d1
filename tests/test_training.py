import copy
import math

import pytest
import torch
from torch import nn

from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.inference import compute_accuracy, recompute_statistics
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.training import Diverged, distillation_loss, one_cycle, train
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split

CPU = torch.device("cpu")
PLAIN = Normalisation((0.0,), (1.0,))


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
