from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from cases import BY_NAME, lattice_images, small_classifier
from scipy.stats import spearmanr

from lightning_adv2.functional.randomisation import randomised, rank_correlation
from lightning_adv2.models import weights_hash


def maps(kind: str, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.rand(20, 1, 7, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    if kind == "ties":
        return (values * 4).round() / 4
    return values**9 - 3 if kind == "skewed" else values


@pytest.mark.parametrize("first", ["plain", "ties", "skewed"])
@pytest.mark.parametrize("second", ["plain", "ties", "skewed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rank_correlation_is_scipys(first, second, dtype):
    one, other = maps(first, 0, dtype), maps(second, 1, dtype)
    other[:10] = other[:10] + one[:10]  # some that have to do with each other
    found = rank_correlation(one, other)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one.numpy(), other.numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    assert found.dtype == dtype
    assert found.shape == (20,)


def test_only_the_order_counts():
    one = maps("plain", 0)
    for other, expected in ((one, 1.0), (one**3, 1.0), (1 - one, -1.0), ((5 * one).exp(), 1.0)):
        torch.testing.assert_close(rank_correlation(one, other), torch.full((20,), expected, dtype=one.dtype))


def test_flat_and_broken_maps():
    one, flat = maps("plain", 0)[:4], torch.full((4, 1, 7, 5), 0.5, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(spearmanr(one[0].ravel(), flat[0].ravel()).statistic), (
            "where there is no answer a rule is needed"
        )
    assert rank_correlation(one, flat).tolist() == rank_correlation(flat, one).tolist() == [0.0] * 4
    assert rank_correlation(flat, flat * 0.1).tolist() == [1.0] * 4
    broken = one.clone()
    broken[1, 0, 2, 3], broken[2, 0, 0, 0] = float("nan"), float("inf")
    for found in (rank_correlation(broken, one), rank_correlation(one, broken)):
        assert found.isnan().tolist() == [False, True, True, False]
    assert rank_correlation(one[:0], one[:0]).shape == (0,)


@pytest.mark.parametrize("shapes", [((2, 1, 4, 4), (2, 1, 4, 5)), ((2, 1, 4, 4), (3, 1, 4, 4)), ((2, 1, 0, 0),) * 2])
def test_maps_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match="give two of the same"):
        rank_correlation(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("interpreter", [False, True], ids=["classifier", "rts"])
def test_a_randomised_copy_has_the_same_numbers_in_another_order(interpreter):
    module = small_classifier()
    if interpreter:
        module = BY_NAME["rts"].build(module)
    frozen = next(p for p in module.parameters() if p.requires_grad).requires_grad_(False)
    before, mode = weights_hash(module), [m.training for m in module.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    copy = randomised(module, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(module) == before
    assert type(copy) is type(module)
    assert [m.training for m in copy.modules()] == mode
    assert not frozen.requires_grad
    pairs = list(zip(module.named_parameters(), copy.named_parameters(), strict=True))
    for (name, old), (_, new) in pairs:
        assert new.requires_grad == old.requires_grad, name
        assert new.data_ptr() != old.data_ptr(), name
        assert torch.equal(new.flatten().sort().values, old.flatten().sort().values), name
        if old.unique().numel() > 3:
            assert not torch.equal(new, old), f"{name} is as it was"
    for (name, old), (_, new) in zip(module.named_buffers(), copy.named_buffers(), strict=True):
        assert torch.equal(new, old), name
        assert new.data_ptr() != old.data_ptr(), name
    assert weights_hash(randomised(module, seed=1)) == weights_hash(copy)
    assert weights_hash(randomised(module, seed=2)) != weights_hash(copy)


def test_a_randomised_classifier_has_forgotten_its_answers():
    classifier, images = small_classifier(), lattice_images(64)
    with torch.no_grad():
        known, forgotten = classifier(images).argmax(1), randomised(classifier)(images).argmax(1)
    assert (known == forgotten).float().mean() < 0.6
