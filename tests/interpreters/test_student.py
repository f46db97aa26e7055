from __future__ import annotations

import pytest
import torch
from cases import build_student, lattice_images, other_class, small_classifier
from safetensors.torch import load_file

from lightning_adv2.attacks import adv2, adv2_attack
from lightning_adv2.attacks.objective import EncoderClass
from lightning_adv2.interpreters import Student
from lightning_adv2.models import weights_hash

TARGET = torch.tensor([0, 1, 2, 3])


def rebuilt(weights: str | None = None, encoder_seed: int = 7, **changes: object) -> Student:
    return Student(small_classifier(seed=encoder_seed), **{"map_stride": 2, "width": 6, **changes}, weights=weights)


def test_save_and_load_give_the_same_maps(tmp_path):
    classifier, images = small_classifier(), lattice_images(4)
    student = build_student(classifier)
    path = student.save(tmp_path / "student.safetensors")
    assert not any(name.startswith("encoder") for name in load_file(path))
    again = rebuilt(str(path))
    first, second = (one.explain(classifier, images, TARGET) for one in (student, again))
    assert torch.equal(first.attribution_map, second.attribution_map)
    assert not any(m.training for m in again.modules())
    fresh = rebuilt().explain(classifier, images, TARGET)
    assert not torch.equal(first.attribution_map, fresh.attribution_map)


def test_a_trained_encoder_is_in_the_file(tmp_path):
    classifier, images = small_classifier(), lattice_images(4)
    student = rebuilt(train_encoder=True, name="student_a")
    before = weights_hash(student.network.encoder)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(classifier, images, TARGET).attribution_map.square().mean().backward()
    optimizer.step()
    assert weights_hash(student.network.encoder) != before
    path = student.save(tmp_path / "student_a.safetensors")
    again = rebuilt(str(path), encoder_seed=3)  # whatever encoder it is built with, the file's counts
    assert weights_hash(again.network) == weights_hash(student.network)
    assert again.network.own_encoder
    assert not any(p.requires_grad for p in again.network.encoder.parameters())
    first, second = (one.explain(classifier, images, TARGET) for one in (student, again))
    assert torch.equal(first.attribution_map, second.attribution_map)
    assert (student.name, again.name) == ("student_a", "student")


@pytest.mark.parametrize("changes", [{"width": 8}, {"map_stride": 4}, {"map_stride": 1}])
def test_a_file_of_another_network_is_refused(tmp_path, changes):
    path = build_student(small_classifier()).save(tmp_path / "student.safetensors")
    with pytest.raises(ValueError, match=r"student\.safetensors.*do not fit.*reduce\.0\.weight"):
        rebuilt(str(path), **changes)


def test_a_wrong_stride_names_the_right_ones():
    with pytest.raises(ValueError, match=r"map_stride=3.*\[1, 2, 4\]"):
        rebuilt(map_stride=3)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors.*configs/train/student_"):
        rebuilt(str(tmp_path / "gone.safetensors"))


def test_aux_holds_the_encoders_logits_with_a_graph():
    classifier, images = small_classifier(), lattice_images(4).requires_grad_()
    result = build_student(classifier)(classifier, images, TARGET)
    torch.testing.assert_close(result.aux["encoder_logits"], small_classifier(seed=7)(images))
    torch.testing.assert_close(result.logits, classifier(images))
    (gradient,) = torch.autograd.grad(result.aux["encoder_logits"].sum(), images)
    assert gradient.any()


def test_its_attack_aims_at_the_encoder_as_well():
    attack = adv2_attack(build_student(small_classifier()))
    assert any(isinstance(term, EncoderClass) for stage in attack.stages for term in stage.step.terms)


def test_it_is_attacked_in_one_line():
    classifier, images = small_classifier(), lattice_images(4)
    result = adv2(classifier, build_student(classifier), images, other_class(classifier, images))
    assert result.success.any()
