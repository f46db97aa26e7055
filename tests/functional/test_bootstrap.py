"""Intervals against scipy's, and against how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_adv2.functional.bootstrap import bootstrap_interval, share_interval


def test_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).beta(2, 5, 80)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    low, high = bootstrap_interval(values.tolist(), draws=20000)
    assert low == pytest.approx(theirs.low, abs=2e-3)
    assert high == pytest.approx(theirs.high, abs=2e-3)


def test_values_of_an_image_are_drawn_together():
    # Ten images, each seen under twenty seeds with the same value: no more is known than from the ten.
    ten = np.random.default_rng(1).random(10)
    many, names = np.repeat(ten, 20).tolist(), [str(i) for i in range(10) for _ in range(20)]
    assert bootstrap_interval(many, groups=names) == pytest.approx(bootstrap_interval(ten.tolist()))
    low, high = bootstrap_interval(many)
    wide_low, wide_high = bootstrap_interval(many, groups=names)
    assert high - low < 0.5 * (wide_high - wide_low)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for k in range(200):
        low, high = bootstrap_interval(rng.exponential(1.0, 64).tolist(), seed=k, draws=500)
        inside += low <= 1.0 <= high
    assert 0.86 <= inside / 200 <= 0.99  # 0.95 less what the percentile method loses on skewed data


def test_no_values_have_no_interval():
    assert all(math.isnan(end) for end in bootstrap_interval([]))
    assert all(math.isnan(end) for end in share_interval(0, 0))


@pytest.mark.parametrize(("successes", "n"), [(0, 8), (8, 8), (3, 64), (60, 64), (1, 1), (0, 1), (617, 100_000)])
def test_share_interval_agrees_with_scipys_wilson_interval(successes, n):
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert share_interval(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="level=1"):
        bootstrap_interval([1.0], level=1)
    with pytest.raises(ValueError, match="groups has 1"):
        bootstrap_interval([1.0, 2.0], groups=["a"])
    for successes in (-1, 9):
        with pytest.raises(ValueError, match=f"successes={successes}, n=8"):
            share_interval(successes, 8)
