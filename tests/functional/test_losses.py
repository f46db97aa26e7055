from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adv2.functional import losses
from lightning_adv2.models import RTSNetwork


def test_cross_entropy_of_uniform_logits_is_log_k():
    result = losses.cross_entropy(torch.zeros(3, 7), torch.tensor([0, 3, 6]))
    torch.testing.assert_close(result, torch.full((3,), math.log(7)))


def test_cross_entropy_is_per_image():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    expected = torch.tensor([math.log1p(math.exp(-2)), math.log1p(math.exp(2))])
    torch.testing.assert_close(losses.cross_entropy(logits, torch.tensor([0, 1])), expected)


def test_cross_entropy_of_probabilities_extends_that_of_classes():
    logits, target = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    one_hot = torch.eye(5)[target]
    torch.testing.assert_close(losses.cross_entropy(logits, one_hot), losses.cross_entropy(logits, target))


@given(
    num_classes=st.integers(2, 1000),
    smoothing=st.lists(st.floats(0, 0.999), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_smoothed_target_rows_sum_to_one(num_classes, smoothing, seed):
    s = torch.tensor(smoothing, dtype=torch.float64)
    target_class = torch.randint(num_classes, (len(s),), generator=torch.Generator().manual_seed(seed))
    rows = losses.smoothed_target(target_class, num_classes, s)
    torch.testing.assert_close(rows.sum(1), torch.ones_like(s))
    torch.testing.assert_close(rows.gather(1, target_class[:, None])[:, 0], 1 - s)
    others = rows[torch.arange(num_classes) != target_class[:, None]].view(len(s), num_classes - 1)
    torch.testing.assert_close(others, (s / (num_classes - 1))[:, None].expand_as(others))


def test_map_mse_closed_form():
    first = torch.zeros(2, 1, 3, 3)
    second = torch.stack([torch.full((1, 3, 3), 0.5), torch.eye(3)[None]])
    torch.testing.assert_close(losses.map_mse(first, second), torch.tensor([0.25, 3 / 9]))


def test_total_variation_closed_form():
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1  # one edge in each of 4 rows: 4 of 12 horizontal differences are 1, no vertical one
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 4) / 4
    values = losses.total_variation(torch.cat([step, ramp, torch.full((1, 1, 4, 4), 0.7)]))
    torch.testing.assert_close(values, torch.tensor([4 / 12, 1 / 16, 0.0]))


def test_area_closed_form():
    masks = torch.stack([torch.full((1, 4, 4), v) for v in (0.0, 0.25, 1.0)])
    torch.testing.assert_close(losses.area(masks), torch.tensor([0.0, 0.25, 1.0]))
    powered = losses.area(masks, 0.3)
    assert powered[0] == 0
    # The floor of 1e-4 takes up to (1e-4)^0.3 = 0.063 off.
    expected = torch.tensor([0.25**0.3, 1.0]) - 1e-4**0.3
    torch.testing.assert_close(powered[1:], expected, atol=2e-4, rtol=0)


def test_area_grows_with_the_mask():
    masks = torch.linspace(0, 1, 101).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    assert (losses.area(masks, 0.3).diff() > 0).all()


def test_destruction_and_preservation_closed_form():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probability of class 0: 3/4 and 1/2
    target = torch.tensor([0, 0])
    torch.testing.assert_close(losses.preservation(logits, target), -torch.tensor([0.75, 0.5]).log())
    torch.testing.assert_close(losses.destruction(logits, target, 0.3), torch.tensor([0.75, 0.5]) ** 0.3)
    torch.testing.assert_close(losses.destruction(logits, target, 1.0), torch.tensor([0.75, 0.5]))


@given(
    kind=st.sampled_from(["zeros", "ones", "random", "one pixel"]),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    power=st.sampled_from([0.3, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=120, deadline=None)
def test_promise_14_mask_losses_are_finite_everywhere(kind, height, width, dtype, power, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, height, width)
    mask = {
        "zeros": torch.zeros(shape),
        "ones": torch.ones(shape),
        "random": torch.rand(shape, generator=generator),
        "one pixel": torch.zeros(shape).index_put_((torch.tensor(0),) * 4, torch.tensor(1.0)),
    }[kind]
    mask = mask.to(dtype).requires_grad_()
    for loss in (losses.total_variation(mask), losses.area(mask, power), losses.map_mse(mask, torch.zeros_like(mask))):
        assert loss.shape == (2,)
        assert loss.isfinite().all()
        (gradient,) = torch.autograd.grad(loss.sum(), mask)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 1, 4, 1), (1, 1, 1, 1)])
def test_promise_14_a_map_one_pixel_wide_has_no_neighbours_and_no_variation_there(shape):
    mask = torch.full(shape, 0.3, requires_grad=True)
    loss = losses.total_variation(mask)
    assert torch.equal(loss, torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss.sum(), mask)
    assert torch.equal(gradient, torch.zeros(shape))


@given(
    target_logit=st.sampled_from([-1e4, -100.0, 0.0, 100.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    power=st.sampled_from([0.3, 1.0]),
)
@settings(max_examples=30, deadline=None)
def test_promise_14_class_losses_are_finite_where_the_probability_underflows(target_logit, dtype, power):
    logits = torch.tensor([[target_logit, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([0])
    smoothed = losses.smoothed_target(target, 3, torch.tensor([0.05], dtype=dtype))
    for loss in (
        losses.preservation(logits, target),
        losses.destruction(logits, target, power),
        losses.cross_entropy(logits, target),
        losses.cross_entropy(logits, smoothed),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_promise_14_rts_mask_of_nothing_is_one_half(dtype):
    outputs = torch.zeros(2, 2, 3, 3, dtype=dtype, requires_grad=True)
    mask = RTSNetwork._mask(outputs)
    torch.testing.assert_close(mask, torch.full_like(mask, 0.5))
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (gradient,) = torch.autograd.grad((mask * weight).sum(), outputs)
    assert gradient.isfinite().all()


def test_destruction_gradient_matches_finite_differences():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 3])
    assert torch.autograd.gradcheck(lambda z: losses.destruction(z, target), (logits,))


def test_area_gradient_matches_finite_differences():
    mask = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: losses.area(m, 0.3), (mask,))
    assert torch.autograd.gradcheck(losses.total_variation, (mask,))
