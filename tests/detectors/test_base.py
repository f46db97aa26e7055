from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adv2.detectors import threshold_at


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(0, 99))
def test_smallest_threshold_that_keeps_the_rate(values: list[int], percent: int) -> None:
    """By brute force over all thresholds there can be, many ties among them."""
    scores, allowed = torch.tensor(values).double(), percent * len(values) // 100
    kept = [t for t in sorted(set(values)) if sum(v > t for v in values) <= allowed]
    assert threshold_at(scores, percent / 100) == kept[0]


@pytest.mark.parametrize(("count", "rate", "flagged"), [(20, 0.05, 1), (100, 0.29, 29), (100, 0.07, 7), (19, 0.05, 0)])
def test_the_rate_is_used_up(count: int, rate: float, flagged: int) -> None:
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
    assert int((scores > threshold_at(scores, rate)).sum()) == flagged


def test_all_tied() -> None:
    scores = torch.full((10,), 2.0)
    assert threshold_at(scores, 0.5) == 2.0
    assert not (scores > threshold_at(scores, 0.5)).any()


def test_arguments() -> None:
    with pytest.raises(ValueError, match="false_positive_rate=1: a share"):
        threshold_at(torch.zeros(3), 1)
    for scores in (torch.zeros(0), torch.zeros(2, 2), torch.tensor([0.0, float("nan")])):
        with pytest.raises(ValueError, match="scores: expected one or more finite numbers"):
            threshold_at(scores, 0.05)
