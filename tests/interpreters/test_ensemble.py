from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from cases import build_rts, lattice_images, small_classifier
from torch import Tensor

from lightning_adv2.functional.masking import resize_map
from lightning_adv2.interpreters import CAM, Ensemble, Gradient, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

TARGET = torch.tensor([0, 1, 2])


def members(classifier: Classifier) -> list[Interpreter]:
    return [Gradient(pool=2), CAM(), build_rts(classifier)]


def test_the_map_is_the_mean_and_the_disagreement_the_mean_distance_of_all_pairs():
    classifier, images = small_classifier(), lattice_images(3)
    shown = [m.explain(classifier, images, TARGET).attribution_map for m in members(classifier)]
    maps = np.stack([resize_map(m, (8, 8))[:, 0].numpy() for m in shown], axis=1)
    ensemble = Ensemble(members(classifier))
    result = ensemble.explain(classifier, images, TARGET)
    np.testing.assert_allclose(result.attribution_map[:, 0].numpy(), maps.mean(1), atol=1e-6)
    np.testing.assert_allclose(result.aux["member_maps"].numpy(), maps, atol=1e-6)
    pairs = [np.abs(maps[:, a] - maps[:, b]).mean((1, 2)) for a, b in combinations(range(3), 2)]
    np.testing.assert_allclose(result.aux["disagreement"].numpy(), np.mean(pairs, axis=0), atol=1e-6)
    assert ensemble.member_names == ["grad", "cam", "rts"]
    assert "encoder_logits" in result.aux, "what the attack on RTS needs is passed on"


def test_like_members_agree():
    class Twin(CAM):
        name = "twin"

    result = Ensemble([CAM(), Twin()]).explain(small_classifier(), lattice_images(3), TARGET)
    assert torch.equal(result.aux["disagreement"], torch.zeros(3))


@pytest.mark.parametrize("given", [[], [CAM()], [CAM(), CAM()]])
def test_too_few_or_nameless_members_are_refused(given):
    with pytest.raises(ValueError, match=r"members=.*at least two interpreters, with different names"):
        Ensemble(given)


def test_one_member_without_a_right_gradient_spoils_the_ensembles():
    class Opaque(CAM):
        name, differentiable = "opaque", False

    assert Ensemble([CAM(), Gradient()]).differentiable
    assert not Ensemble([CAM(), Opaque()]).differentiable


class Counting(Interpreter):
    """An iterative interpreter: its map says how many steps were made, of three from scratch."""

    name = "counting"

    def init_state(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
        return images.new_zeros(len(images), 1, 2, 2)

    def advance(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State) -> State:
        return state + 0.1

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        steps = 1 if isinstance(state, Tensor) else 3
        state = state if isinstance(state, Tensor) else self.init_state(classifier, images, class_idx)
        for _ in range(steps):
            state = self.advance(classifier, images, class_idx, state)
        return Interpretation(classifier(images), state, state=state)


def test_an_iterative_members_state_goes_through():
    classifier, images = small_classifier(), lattice_images(3)
    ensemble = Ensemble([CAM(), Counting()])
    scratch = ensemble(classifier, images, TARGET)
    torch.testing.assert_close(scratch.aux["member_maps"][:, 1], torch.full((3, 4, 4), 0.3))
    state = ensemble.init_state(classifier, images, TARGET)
    state = ensemble.advance(classifier, images, TARGET, state)
    once_more = ensemble(classifier, images, TARGET, state)
    torch.testing.assert_close(once_more.aux["member_maps"][:, 1], torch.full((3, 4, 4), 0.2))
    assert Ensemble([CAM(), Gradient()]).init_state(classifier, images, TARGET) == ()
