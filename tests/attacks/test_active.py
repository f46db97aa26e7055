"""Images that have stopped improving are left alone."""

from __future__ import annotations

import pytest
import torch
from cases import lattice_images, other_class, small_classifier

from lightning_adv2.attacks import ADV2, EarlyStopping, adv2_cam, run_attack
from lightning_adv2.attacks.active import Watch
from lightning_adv2.interpreters import CAM


def test_a_plateau_is_patience_steps_without_improvement_of_a_confident_image():
    watch = Watch(EarlyStopping(patience=3, tolerance=0.1, every=1), torch.zeros(3))
    # The first improves until step 2, the second always, the third stands still but is not confident.
    curves = torch.tensor(
        [[0.9, 0.5, 0.45, 0.42, 0.41, 0.4], [0.9, 0.7, 0.5, 0.3, 0.1, -0.1], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]]
    )
    seen = [watch.see(curves[:, k]).tolist() for k in range(6)]
    assert seen == [[False] * 3] * 4 + [[True, False, False]] * 2


def test_it_looks_only_every_so_many_steps():
    watch = Watch(EarlyStopping(patience=1, every=4), torch.zeros(1))
    assert [watch.see(torch.zeros(1)) is None for _ in range(8)] == [True, True, True, False] * 2


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"every": 0}, {"tolerance": -1.0}, {"tolerance": 1.0}])
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStopping(**wrong)


def test_fewer_images_pass_and_what_is_reported_counts_them():
    """The passes are counted in the network itself."""
    classifier, images = small_classifier(), lattice_images(6, seed=2)
    target_class = other_class(classifier, images)
    target_map = CAM().explain(classifier, images, (target_class - 1) % 4).attribution_map
    passed: list[int] = []
    classifier.conv1.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    attack = adv2_cam("paper", steps=200, warm_start=100)
    attack.stop, attack.min_confidence = EarlyStopping(patience=20, tolerance=1e-3, every=5), 0.3
    result = run_attack(attack, classifier, CAM(), images, target_class, target_map)
    looked_at, judged = 2 + 1, 2 * len(images)  # before the first step; the last word on two candidates
    assert sum(passed) == looked_at + int(result.steps_taken.sum()) + judged
    assert int(result.steps_taken.sum()) < 0.7 * 6 * 300
    assert len(set(result.steps_taken.tolist())) > 1, "all stopped together: nothing was compacted"
    assert result.trace["iou"].shape == (200, 6)


def test_the_preset_passes_it_on():
    stop = EarlyStopping(patience=7)
    attack = ADV2("paper", stop=stop).against(CAM())
    assert attack.stop is stop
    assert ADV2("paper").against(CAM()).stop is None
