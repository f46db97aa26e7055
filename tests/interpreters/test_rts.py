from __future__ import annotations

import pytest
import torch
from cases import build_rts, lattice_images, small_classifier
from safetensors.torch import load_file

from lightning_adv2.interpreters import RTS
from lightning_adv2.models import save_weights

TARGET = torch.tensor([0, 1, 2, 3])


def rebuilt(weights: str, **changes: int) -> RTS:
    return RTS(small_classifier(seed=7), **{"map_stride": 2, "width": 6, **changes}, weights=weights)


def test_save_and_load_give_the_same_maps(tmp_path):
    classifier, images = small_classifier(), lattice_images(4)
    rts = build_rts(classifier)
    path = rts.save(tmp_path / "rts.safetensors")
    assert not any(name.startswith("encoder") for name in load_file(path))
    again = rebuilt(str(path))
    first, second = (r.explain(classifier, images, TARGET) for r in (rts, again))
    assert torch.equal(first.attribution_map, second.attribution_map)
    assert not any(m.training for m in again.modules())
    fresh = RTS(small_classifier(seed=7), map_stride=2, width=6).explain(classifier, images, TARGET)
    assert not torch.equal(first.attribution_map, fresh.attribution_map)


@pytest.mark.parametrize("changes", [{"width": 8}, {"map_stride": 4}, {"map_stride": 1}])
def test_a_file_of_another_network_is_refused(tmp_path, changes):
    path = build_rts(small_classifier()).save(tmp_path / "rts.safetensors")
    with pytest.raises(ValueError, match=r"rts\.safetensors.*do not fit.*reduce\.weight"):
        rebuilt(str(path), **changes)


def test_a_file_with_a_tensor_missing_or_left_over_is_refused(tmp_path):
    state = build_rts(small_classifier()).network.trainable_state()
    fewer = {n: v for n, v in state.items() if n != "output.bias"}
    for content in (fewer, state | {"output.extra": torch.zeros(1)}):
        path = save_weights(content, tmp_path / "rts.safetensors")
        with pytest.raises(ValueError, match=r"output\.(bias|extra)"):
            rebuilt(str(path))


def test_promise_13_a_file_with_nan_is_refused(tmp_path):
    state = build_rts(small_classifier()).network.trainable_state()
    state["output.weight"] = torch.full_like(state["output.weight"], float("nan"))
    path = save_weights(state, tmp_path / "rts.safetensors")
    with pytest.raises(ValueError, match=r"NaN.*output\.weight"):
        rebuilt(str(path))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors.*fit --config"):
        rebuilt(str(tmp_path / "gone.safetensors"))


def test_it_comes_in_eval_mode_with_a_frozen_encoder():
    rts = RTS(small_classifier(seed=7), map_stride=2)
    assert not any(m.training for m in rts.modules())
    rts.train()
    assert not rts.network.encoder.training
    assert rts.network.reduce.training


def test_aux_holds_the_encoders_logits_with_a_graph():
    classifier, images = small_classifier(), lattice_images(4).requires_grad_()
    result = build_rts(classifier)(classifier, images, TARGET)
    torch.testing.assert_close(result.aux["encoder_logits"], small_classifier(seed=7)(images))
    (gradient,) = torch.autograd.grad(result.aux["encoder_logits"].sum(), images)
    assert gradient.any()
    assert result.aux["presence"].shape == (4,)


def test_confidence_reaches_the_selector():
    classifier, images = small_classifier(), lattice_images(4)
    rts = build_rts(classifier)
    base = rts.explain(classifier, images, TARGET).attribution_map
    rts.confidence = 6.0
    assert (rts.explain(classifier, images, TARGET).attribution_map - base).abs().amax() > 1e-3
