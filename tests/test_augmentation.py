"""Random crops and mirror images, a whole batch at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from n2n_gym.tasks.augmentation import Augmentation


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def images(count: int, channels: int = 2) -> Tensor:
    """5x4 images without a zero, so that padding can be told from them."""
    shape = count, channels, 5, 4
    return torch.randint(1, 256, shape, generator=seed(0), dtype=torch.uint8)


def all_outcomes(image: Tensor, padding: int, *, flip: bool) -> dict[bytes, Tensor]:
    padded = F.pad(image, (padding,) * 4)
    crops = [
        padded[:, top : top + 5, left : left + 4]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    crops += [crop.flip(2) for crop in crops] if flip else []
    return {crop.contiguous().numpy().tobytes(): crop for crop in crops}


def test_no_augmentation_gives_the_images_and_draws_nothing():
    batch, generator = images(3), seed(1)
    before = generator.get_state()
    assert Augmentation()(batch, generator) is batch
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("padding", "flip"), [(1, False), (0, True), (2, True)])
def test_every_image_is_one_of_its_crops_and_each_crop_comes(padding, flip):
    one = images(1)
    batch = one.expand(2000, -1, -1, -1)
    changed = Augmentation(padding, flip)(batch, seed(1))
    assert changed.shape == batch.shape
    assert changed.dtype == torch.uint8
    outcomes = all_outcomes(one[0], padding, flip=flip)
    assert len(outcomes) == (2 * padding + 1) ** 2 * (1 + flip)
    found = [image.numpy().tobytes() for image in changed]
    assert set(found) == set(outcomes)
    # Each comes 2000 / len times, with a deviation of less than the root of that.
    expected = 2000 / len(outcomes)
    counts = [found.count(outcome) for outcome in outcomes]
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts)


def test_images_of_a_batch_change_by_themselves_and_stay_in_their_places():
    batch = images(50)
    changed = Augmentation(padding=1, flip=True)(batch, seed(1))
    for image, original in zip(changed, batch, strict=True):
        outcomes = all_outcomes(original, 1, flip=True)
        assert image.numpy().tobytes() in outcomes


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_in_memory_does_not_matter(channels):
    batch = images(20, channels)
    last = batch.contiguous(memory_format=torch.channels_last)
    augment = Augmentation(padding=2, flip=True)
    assert torch.equal(augment(batch, seed(1)), augment(last, seed(1)))


def test_the_generator_decides():
    augment, batch = Augmentation(padding=2, flip=True), images(20)
    assert torch.equal(augment(batch, seed(1)), augment(batch, seed(1)))
    assert not torch.equal(augment(batch, seed(1)), augment(batch, seed(2)))


@pytest.mark.gpu
def test_a_batch_is_the_same_on_every_device():
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        pytest.skip("there is no accelerator")
    augment, batch = Augmentation(padding=2, flip=True), images(20)
    there = augment(batch.to(device), seed(1))
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), augment(batch, seed(1)))


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        Augmentation(padding=-1)
