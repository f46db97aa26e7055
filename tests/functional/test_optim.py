from __future__ import annotations

import pytest
import torch

from lightning_adv2.functional import optim

BETAS = [(0.9, 0.999), (0.5, 0.5), (0.0, 0.9), (0.9, 0.0)]
amsgrad = pytest.mark.parametrize("amsgrad", [False, True], ids=["plain", "amsgrad"])


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@amsgrad
def test_adam_follows_torch(betas, eps, amsgrad):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    curvature = torch.rand(start.shape, generator=generator, dtype=torch.float64) * 5
    theirs = start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.05, betas=betas, eps=eps, amsgrad=amsgrad)
    rule = optim.adam(*betas, eps, amsgrad)
    ours, state = start.clone(), rule.init(start)
    for _ in range(20):
        reference.zero_grad()
        (curvature * (theirs - 1) ** 4).sum().backward()
        reference.step()
        step, state = rule.update(4 * curvature * (ours - 1) ** 3, state)
        ours = ours + 0.05 * step
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_amsgrad_remembers_the_largest_gradient():
    gradients = [torch.full((1, 1), value, dtype=torch.float64) for value in (5.0, *[0.1] * 9)]
    last = []
    for amsgrad in (False, True):
        rule = optim.adam(0.0, 0.5, amsgrad=amsgrad)
        state = rule.init(gradients[0])
        for gradient in gradients:
            step, state = rule.update(gradient, state)
        last.append(step.item())
    # mean squares: 12.5 at first, then (12.5 - 0.01) / 2**9 + 0.01 at the tenth step; bias correction 1 - 2**-10
    expected = [-0.1 / (mean / (1 - 2**-10)) ** 0.5 for mean in (12.49 / 2**9 + 0.01, 12.5)]
    assert last == pytest.approx(expected, rel=1e-6)


@amsgrad
def test_adam_state_leads_with_the_batch(amsgrad):
    rule, gradient = optim.adam(amsgrad=amsgrad), torch.zeros(5, 3, 2, 2)
    state = rule.init(gradient)
    _, later = rule.update(gradient, state)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in later]
    assert len(state) == (4 if amsgrad else 3)
    assert all(len(leaf) == 5 for leaf in state)


@amsgrad
def test_adam_of_a_batch_equals_adam_of_its_images(amsgrad):
    gradients = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    rule = optim.adam(0.7, 0.8, amsgrad=amsgrad)

    def run(part: torch.Tensor) -> torch.Tensor:
        state, total = rule.init(part[0]), torch.zeros_like(part[0])
        for gradient in part:
            step, state = rule.update(gradient, state)
            total = total + step
        return total

    assert torch.equal(run(gradients), torch.cat([run(gradients[:, i : i + 1]) for i in range(3)]))


@amsgrad
def test_adam_does_not_change_its_arguments(amsgrad):
    rule, gradient = optim.adam(amsgrad=amsgrad), torch.ones(2, 3)
    state = rule.init(gradient)
    rule.update(gradient, state)
    assert torch.equal(gradient, torch.ones(2, 3))
    assert all(not leaf.any() for leaf in state)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.5)])
@amsgrad
def test_three_unrolled_adam_steps_are_differentiable(betas, amsgrad):
    rule = optim.adam(*betas, amsgrad=amsgrad)
    start = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def unrolled(target: torch.Tensor) -> torch.Tensor:
        parameter, state = start, rule.init(start)
        for _ in range(3):
            step, state = rule.update(2 * (parameter - target) * (1 + target**2), state)
            parameter = parameter + 0.1 * step
        return parameter

    target = torch.tensor([[0.3, -0.7, 1.1], [0.2, 2.0, -1.5]], dtype=torch.float64, requires_grad=True)
    # atol below the size of the Jacobian (about 1e-2): an Adam cut out of the graph must not pass
    jacobian = torch.autograd.functional.jacobian(unrolled, target)
    assert jacobian.abs().amax() > 1e-3
    assert torch.autograd.gradcheck(unrolled, (target,), eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@amsgrad
def test_an_unrolled_step_with_zero_gradient_stays_finite(dtype, amsgrad):
    rule, parameter = optim.adam(amsgrad=amsgrad), torch.zeros(1, 4, dtype=dtype, requires_grad=True)
    step, state = rule.update(parameter * torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=dtype), rule.init(parameter))
    step, _ = rule.update(parameter + step, state)
    (gradient,) = torch.autograd.grad(step.sum(), parameter)
    assert step.isfinite().all()
    assert gradient.isfinite().all()


def test_sign_steps_against_the_gradient():
    rule = optim.sign()
    step, state = rule.update(torch.tensor([[3.0, -1e-9, 0.0]]), rule.init(torch.zeros(1, 3)))
    assert torch.equal(step, torch.tensor([[-1.0, 1.0, 0.0]]))
    assert state == ()
