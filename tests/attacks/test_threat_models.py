from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, lattice_images, other_class, small_classifier

from lightning_adv2.attacks import (
    ADV2,
    FlowSmoothness,
    Pixels,
    Spatial,
    SqueezedClass,
    TargetClass,
    TargetMap,
    adv2_cam,
    adv2_grad,
    adv2_mask,
    adv2_rts,
    run_attack,
    stadv,
)
from lightning_adv2.functional.flow import flow_norm
from lightning_adv2.functional.random import image_generators
from lightning_adv2.functional.squeeze import BitDepth
from lightning_adv2.interpreters import CAM, Gradient
from lightning_adv2.models import PlainReLU


def test_stadv_adv2_is_adv2_on_a_flow_field_and_nothing_else():
    """Same terms, in the same order, with the same weights; the threat model adds its own."""
    for preset in (adv2_cam, adv2_rts, adv2_grad):
        pixel, spatial = preset(threat_model=Pixels()), preset(threat_model=Spatial())
        assert pixel.name == "adv2"
        assert spatial.name == "stadv-adv2"
        for ours, theirs in zip(pixel.stages, spatial.stages, strict=True):
            kinds = [type(term) for term in theirs.step.terms]
            assert kinds == [*(type(term) for term in ours.step.terms), FlowSmoothness]
            assert ours.steps == theirs.steps


def test_the_papers_spatial_schedule():
    """n1 = 200, n2 = 600, tau 0.0005, map weight 5 to 10, Adam with a rate of 0.01 (method: StAdv threat_model)."""
    for preset in (adv2_cam, adv2_grad):
        attack = preset("paper", threat_model=Spatial())
        assert [stage.steps for stage in attack.stages] == [200, 600]
        joint = attack.stages[1].step
        weights = {type(term): (term.weight(0.0), term.weight(1.0)) for term in joint.terms}
        assert weights[TargetMap] == (5.0, 10.0)
        assert weights[FlowSmoothness] == (0.0005, 0.0005)
        assert (joint.step_size(0.0), joint.step_size(1.0)) == (0.01, 0.01)
    assert stadv("paper").steps == 800


def test_the_flow_stays_small_where_its_roughness_is_dear():
    classifier, images = small_classifier(), lattice_images(4)
    target_class = other_class(classifier, images)
    cheap, dear = (run_attack(stadv(tau=tau), classifier, None, images, target_class) for tau in (0.0, 0.1))
    assert (dear.norm < cheap.norm).all()
    assert (cheap.norm > 0).all()


def test_the_size_of_the_result_is_that_of_the_image_kept():
    classifier, images = small_classifier(), lattice_images(4)
    target_class = other_class(classifier, images)
    threat_model = Spatial(max_flow=0.5)
    target_map = CAM().explain(classifier, images, (target_class - 1) % 4).attribution_map
    attack = adv2_cam(steps=12, threat_model=threat_model)
    result = run_attack(attack, classifier, CAM(), images, target_class, target_map)
    assert (result.norm <= flow_norm(torch.full((1, 2, 16, 16), 0.5))).all()
    pixel = run_attack(adv2_cam(steps=12), classifier, CAM(), images, target_class, target_map)
    assert (pixel.norm <= 0.031 + 1e-6).all()
    difference = (pixel.adv_images - images).abs().amax((1, 2, 3))
    # the kept image is the kept parameter, on an 8-bit level within epsilon
    torch.testing.assert_close(pixel.norm, difference, atol=1 / 255, rtol=0)


@pytest.mark.parametrize("name", ["grad", "cam", "rts", "ensemble", "gradcam"])
def test_adv2_fits_itself_to_the_interpreter_in_either_framework(name):
    case = BY_NAME[name]
    interpreter = case.build(small_classifier())
    for threat_model in (Pixels(0.02), Spatial(0.001)):
        for schedule in ("fast", "paper"):
            chosen = ADV2(schedule, threat_model=threat_model).against(interpreter)
            expected = case.attack(schedule, threat_model=threat_model)
            kinds = [[type(t) for t in s.step.terms] for s in chosen.stages]
            assert kinds == [[type(t) for t in s.step.terms] for s in expected.stages]
            assert [s.steps for s in chosen.stages] == [s.steps for s in expected.stages]
            assert chosen.perturbation is threat_model.perturbation
            assert (chosen.name, chosen.schedule) == (expected.name, schedule)
    assert ADV2(name="mine", steps=3).against(interpreter).steps == 3
    assert ADV2(name="mine").against(interpreter).name == "mine"


def test_presets_have_switches_for_the_ablations():

    plain = adv2_grad(surrogate=PlainReLU(), warm_start=7, smoothing=True, name="plain")
    assert [stage.steps for stage in plain.stages] == [7, 100]
    assert isinstance(plain.stages[1].step.surrogate, PlainReLU)
    assert isinstance(plain.stages[1].step.terms[0], TargetClass)
    assert plain.stages[1].step.terms[0].smoothing(0.0) == 0.05
    assert plain.stages[1].step.terms[0].smoothing(1.0) == pytest.approx(0.01)
    assert plain.name == "plain"
    assert adv2_grad("paper", warm_start=0).steps == 704
    assert adv2_grad("paper", smoothing=False).stages[1].step.terms[0].smoothing is None
    names = [type(term).__name__ for term in adv2_rts(encoder_weight=0.0).stages[0].step.terms]
    assert "EncoderClass" not in names
    with pytest.raises(ValueError, match="tau=-1"):
        Spatial(-1)


def test_grad_attacked_through_plain_relu_gains_nothing_from_its_map_term():
    """The ablation's control: without a slope of the map the joint attack is the attack on the class alone."""

    classifier, images = small_classifier(dtype=torch.float64), lattice_images(4, dtype=torch.float64)
    target_class = other_class(classifier, images)
    interpreter = Gradient(pool=2)
    target_map = interpreter.explain(classifier, images, (target_class - 1) % 4).attribution_map
    attack = adv2_grad(steps=6, surrogate=PlainReLU())
    one = run_attack(attack, classifier, interpreter, images, target_class, target_map)
    other = run_attack(attack, classifier, interpreter, images, target_class, 1 - target_map)
    smooth = run_attack(adv2_grad(steps=6), classifier, interpreter, images, target_class, 1 - target_map)
    torch.testing.assert_close(one.trace["confidence"], other.trace["confidence"], rtol=0, atol=0)
    assert (smooth.trace["confidence"] - other.trace["confidence"]).abs().max() > 1e-3


@pytest.mark.parametrize("preset", [adv2_cam, adv2_grad, adv2_rts, adv2_mask])
def test_steps_are_the_joint_steps_under_every_framework_and_schedule(preset):
    for threat_model in (Pixels(), Spatial()):
        for schedule in ("fast", "paper"):
            if preset is adv2_grad and schedule == "paper" and not threat_model.prefix:
                continue  # four fixed stages
            attack = preset(schedule, 10, threat_model)
            warm = {"fast": 0, "paper": 200 if threat_model.prefix else attack.stages[0].steps}[schedule]
            assert attack.steps == warm + 10
            with pytest.raises(ValueError, match="steps=0"):
                preset(schedule, 0, threat_model)


def test_a_tight_bound_on_the_flow_bounds_its_start():
    threat_model, images = Spatial(max_flow=0.05), lattice_images(2)
    flow = threat_model.perturbation.init(images, image_generators(0, ["a", "b"], "attack"))
    assert flow.abs().max() <= 0.05


def test_terms_for_the_map_are_refused_where_a_step_makes_its_own_and_others_are_minimised():
    attack = adv2_mask()
    term = SqueezedClass([BitDepth(2)])
    for stage in attack.stages:
        with pytest.raises(ValueError, match=r"leave out \['TargetMap'\]"):
            stage.step.extended([TargetMap()])
        assert term in stage.step.extended([term]).terms
    assert attack.stages[1].step.class_step == 0
    assert attack.stages[1].step.extended([term]).class_step > 0
