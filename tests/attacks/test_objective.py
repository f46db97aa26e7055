from __future__ import annotations

import pytest
import torch
from cases import lattice_images, small_classifier

from lightning_adv2.attacks import AttackInputs, EncoderClass, Ramp, TargetClass, TargetMap
from lightning_adv2.attacks.objective import Context
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM
from lightning_adv2.types import Interpretation

TARGET = torch.tensor([0, 1, 2, 3])


def context(progress: float = 0.0) -> Context:
    generator = torch.Generator().manual_seed(0)
    inputs = AttackInputs(
        small_classifier(),
        CAM(),
        lattice_images(4),
        TARGET,
        torch.rand(4, 1, 3, 3, generator=generator),
        image_generators(0, list("abcd"), "attack"),
    )
    seen = Interpretation(
        torch.randn(4, 4, generator=generator),
        torch.rand(4, 1, 3, 3, generator=generator),
        {"encoder_logits": torch.randn(4, 4, generator=generator)},
    )
    return Context(inputs, seen, progress, inputs.images, torch.zeros_like(inputs.images))


@pytest.mark.parametrize(("progress", "value"), [(0.0, 5.0), (0.5, 7.5), (1.0, 10.0)])
def test_a_ramp_is_linear_and_reaches_both_ends(progress, value):
    assert Ramp(5.0, 10.0)(progress) == value
    assert Ramp(3.0, 3.0)(progress) == 3.0


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_terms_are_weighted_per_image(progress):
    here = context(progress)
    logits, seen = here.interpretation.logits, here.interpretation
    log_p = logits.log_softmax(1)[torch.arange(4), TARGET]
    torch.testing.assert_close(TargetClass()(here), -log_p)
    torch.testing.assert_close(TargetClass(Ramp(1.0, 3.0))(here), -(1 + 2 * progress) * log_p)
    mse = (seen.attribution_map - here.inputs.target_map).square().mean((1, 2, 3))
    torch.testing.assert_close(TargetMap(50.0)(here), 50 * mse)
    encoder = seen.aux["encoder_logits"].log_softmax(1)[torch.arange(4), TARGET]
    torch.testing.assert_close(EncoderClass(0.1)(here), -0.1 * encoder)


def test_only_the_class_term_does_without_a_map():
    assert not TargetClass().needs_map
    assert TargetMap().needs_map
    assert EncoderClass().needs_map


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_label_smoothing_draws_each_images_target_from_the_range(progress):
    """Cross entropy is linear in the smoothing s, so that s can be read off the loss: U(0, rho) for each image."""
    here = context(progress)
    rho = (0.05, 0.01)[int(progress)]
    log_p = here.interpretation.logits.log_softmax(1)
    target, others = log_p[torch.arange(4), TARGET], log_p.sum(1)
    slope = target - (others - target) / 3
    term = TargetClass(smoothing=Ramp(0.05, 0.01))
    drawn = torch.stack([(term(here) + target) / slope for _ in range(200)])
    assert drawn.min() >= -1e-6
    assert drawn.max() <= rho + 1e-6
    torch.testing.assert_close(drawn.mean(0), torch.full((4,), rho / 2), rtol=0.2, atol=0)
    assert (drawn.std(0) > 0.2 * rho).all(), "drawn anew at every step"
    assert drawn[0].unique().numel() == 4, "drawn for each image"


def test_smoothing_draws_from_the_images_own_generators():
    torch.manual_seed(0)
    first = TargetClass(smoothing=Ramp(0.5, 0.5))(context())
    torch.manual_seed(1)
    assert torch.equal(TargetClass(smoothing=Ramp(0.5, 0.5))(context()), first)
