from __future__ import annotations

import torch

from lightning_adv2.functional.faithfulness import class_probability, deletion_insertion, preserved_destroyed


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Logits whose probability of class 1 is the mean pixel exactly."""
    mean = images.mean((1, 2, 3)).clamp(1e-6, 1 - 1e-6)
    return torch.stack([(1 - mean).log(), mean.log()], 1)


def one_row(row: int) -> torch.Tensor:
    images = torch.zeros(1, 1, 4, 4)
    images[..., row, :] = 1
    return images


CLASS = torch.tensor([1])


def test_class_probability_is_the_softmax_of_the_class():
    torch.testing.assert_close(class_probability(brightness, one_row(0), CLASS), torch.tensor([0.25]))


def test_preserved_and_destroyed_split_the_evidence():
    images, background = one_row(1), torch.zeros(1, 1, 4, 4)
    kept, removed = preserved_destroyed(brightness, images, background, one_row(1), CLASS)
    torch.testing.assert_close(kept, torch.tensor([0.25]))
    torch.testing.assert_close(removed, torch.tensor([1e-6]))


def test_deletion_and_insertion_of_the_right_and_the_wrong_order():
    images, background = one_row(1), torch.zeros(1, 1, 4, 4)
    # With portions of one row each, the evidence leaves (enters) in the first portion or in the last: by the
    # trapezoidal rule the areas are 1/2, and 7/2, of a portion of 1/4, times the probability 1/4.
    first, last = 0.25 * 0.25 / 2, 0.25 * 0.25 * 3.5
    right = deletion_insertion(brightness, images, background, one_row(1), CLASS, steps=4)
    torch.testing.assert_close(torch.stack(right)[:, 0], torch.tensor([first, last]), atol=1e-5, rtol=0)
    wrong = deletion_insertion(brightness, images, background, 1 - one_row(1), CLASS, steps=4)
    torch.testing.assert_close(torch.stack(wrong)[:, 0], torch.tensor([last, first]), atol=1e-5, rtol=0)


def test_deletion_and_insertion_are_per_image():
    images = torch.cat([one_row(0), one_row(2)])
    attribution_map = torch.cat([one_row(0), 1 - one_row(2)])
    background, target_class = torch.zeros_like(images), torch.tensor([1, 1])
    together = deletion_insertion(brightness, images, background, attribution_map, target_class)
    for i in range(2):
        part = slice(i, i + 1)
        alone = deletion_insertion(brightness, images[part], background[part], attribution_map[part], CLASS)
        torch.testing.assert_close(torch.stack(alone)[:, 0], torch.stack(together)[:, i])
