from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adv2.functional.attribution import class_activation, input_gradient
from lightning_adv2.functional.classes import check_logits, class_indices, of_class
from lightning_adv2.functional.faithfulness import class_probability
from lightning_adv2.functional.losses import cross_entropy, destruction, preservation, smoothed_target

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
TARGET = torch.tensor([1, 0, 1, 3])


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_of_any_type_are_indices(dtype):
    found = class_indices(TARGET.to(dtype), 4)
    assert found.dtype == torch.int64
    assert torch.equal(found, TARGET)


@pytest.mark.parametrize("given", [2, np.int64(2), torch.tensor(2), torch.tensor(2, dtype=torch.uint8)])
def test_a_single_class_stands_for_every_image(given):
    assert class_indices(given, 3).tolist() == [2, 2, 2]
    assert class_indices(given, 0).shape == (0,)


@pytest.mark.parametrize("given", [[1, 0, 1, 3], (1, 0, 1, 3), np.array([1, 0, 1, 3], dtype=np.uint8)])
def test_sequences_are_indices(given):
    assert torch.equal(class_indices(given, 4), TARGET)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (TARGET.bool(), ValueError, r"class_idx.*bool.*mask.*long\(\)"),
        ([True, False, True, True], ValueError, "class_idx.*mask"),
        (TARGET.float(), ValueError, r"class_idx.*float32.*long\(\)"),
        (torch.eye(4), ValueError, r"class_idx.*\(4, 4\).*argmax"),
        (TARGET[:3], ValueError, r"class_idx: expected 4 whole numbers.*\(3,\)"),
        (TARGET[:, None], ValueError, r"class_idx: expected 4.*\(4, 1\)"),
        ([1, 0], ValueError, "class_idx: expected 4"),
        (1.0, ValueError, "class_idx.*float"),
        (None, TypeError, "class_idx=None"),
        ("cat", TypeError, "class_idx='cat'"),
        ([0, "cat", 1, 1], TypeError, "class_idx=.*cat"),
        ([[0], [1, 2]], TypeError, "class_idx="),
    ],
)
def test_what_is_no_index_is_refused_by_name(given, error, message):
    with pytest.raises(error, match=message):
        class_indices(given, 4)


@pytest.mark.parametrize("dtype", WHOLE)
def test_every_function_of_a_class_takes_indices_of_any_type(dtype):
    """Four images and four classes: an index taken for a mask would have a fitting shape, and pick other rows."""
    generator = torch.Generator().manual_seed(0)
    logits, weight = torch.randn(4, 4, generator=generator), torch.randn(4, 5, generator=generator)
    features, images = torch.randn(4, 5, 2, 2, generator=generator), torch.randn(4, 4, 1, 1, generator=generator)
    leaf = images.clone().requires_grad_()
    functions = {
        "of_class": lambda target: of_class(logits, target),
        "class_activation": lambda target: class_activation(features, weight, target),
        "input_gradient": lambda target: input_gradient(leaf.flatten(1).square(), leaf, target, create_graph=False),
        "class_probability": lambda target: class_probability(lambda x: x.flatten(1), images, target),
        "cross_entropy": lambda target: cross_entropy(logits, target),
        "preservation": lambda target: preservation(logits, target),
        "destruction": lambda target: destruction(logits, target),
        "smoothed_target": lambda target: smoothed_target(target, 4, torch.full((4,), 0.1)),
    }
    for name, function in functions.items():
        assert torch.equal(function(TARGET.to(dtype)), function(TARGET)), name


def test_one_logit_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"1 class.*zeros_like.*num_classes = 2"):
        check_logits(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"expected \(B, K\)"):
        check_logits(torch.zeros(3))
    check_logits(torch.zeros(3, 2))
    one = torch.zeros(2, 1)
    for call in (
        lambda: class_probability(lambda x: one, torch.zeros(2, 3, 4, 4), 0),
        lambda: cross_entropy(one, torch.tensor([0, 0])),
        lambda: destruction(one, torch.tensor([0, 0])),
    ):
        with pytest.raises(ValueError, match=r"1 class"):
            call()
