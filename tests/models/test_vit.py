from __future__ import annotations

import pytest
import torch
import torchvision
from cases import lattice_images, small_vit
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lightning_adv2.interpreters import CAM, LRP, GradCAM, Gradient
from lightning_adv2.models import ViTClassifier

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TARGET = torch.tensor([0, 1, 2])


def seeded_network(**options: int) -> VisionTransformer:
    """torchvision's network in a small size, random in every part, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4, **options)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double().eval()


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(images.dtype) for v in (MEAN, STD))
    return (images - mean) / std


@pytest.mark.parametrize("options", [{}, {"representation_size": 10}])
def test_the_logits_are_torchvisions(options):
    network, images = seeded_network(**options), lattice_images(3, side=32, dtype=torch.float64)
    ours = ViTClassifier("tiny", num_classes=4, mean=MEAN, std=STD, network=network).double()
    expected = network(normalized(images))
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.forward_attention(images)[0], expected, rtol=1e-10, atol=1e-10)


def test_the_published_size_equals_torchvision():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = ViTClassifier("vit_b_32", num_classes=5)
        nn.init.normal_(ours.network.heads.head.weight)
    images = lattice_images(1, side=224)
    with torch.no_grad():
        expected = ours.network(ours.normalize(images))
        torch.testing.assert_close(ours(images), expected, rtol=1e-3, atol=1e-3)
        assert ours.forward_features(images).shape == (1, 768, 7, 7)
    assert expected.std() > 1
    assert ours.name == "vit_b_32"
    assert not any(m.training for m in ours.modules())


def test_the_attention_is_that_of_torchvisions_layers():
    network, images = seeded_network(), lattice_images(3, side=32, dtype=torch.float64)
    expected = []

    def show(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> tuple[object, object]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    for block in network.encoder.layers:
        block.self_attention.register_forward_pre_hook(show, with_kwargs=True)
        block.self_attention.register_forward_hook(lambda module, args, output: expected.append(output[1].detach()))
    network(normalized(images))
    ours = ViTClassifier("tiny", num_classes=4, mean=MEAN, std=STD, network=seeded_network()).double()
    _, attention = ours.forward_attention(images)
    assert [a.shape for a in attention] == [(3, 2, 17, 17)] * 2
    for given, wanted in zip(attention, expected, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(given.sum(-1), torch.ones_like(given[..., 0]))


def test_the_features_are_the_final_patch_tokens_row_by_row():
    network, images = seeded_network(), lattice_images(2, side=32, dtype=torch.float64)
    tokens: list[Tensor] = []
    network.encoder.register_forward_hook(lambda module, args, output: tokens.append(output))
    network(normalized(images))
    ours = ViTClassifier("tiny", num_classes=4, mean=MEAN, std=STD, network=seeded_network()).double()
    features = ours.forward_features(images)
    assert features.shape == (2, 16, 4, 4)
    torch.testing.assert_close(features[:, :, 2, 3], tokens[0][:, 1 + 2 * 4 + 3])


def test_it_is_differentiable_three_times():
    classifier = small_vit(dtype=torch.float64)
    images = lattice_images(1, dtype=torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(classifier(images)[0, 0], images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images, create_graph=True)
    (third,) = torch.autograd.grad(second.square().sum(), images)
    assert third.isfinite().all()
    assert third.any()


@pytest.mark.parametrize("interpreter", [CAM(), GradCAM(), LRP()], ids=lambda i: i.name)
def test_what_needs_feature_maps_says_so(interpreter):
    with pytest.raises(TypeError, match=r"ViTClassifier.*interpreter"):
        interpreter.explain(small_vit(), lattice_images(3), TARGET)


def test_the_head_and_the_pyramid_are_refused():
    classifier, images = small_vit(), lattice_images(3)
    with pytest.raises(TypeError, match=r"class token.*Attention or Gradient"):
        classifier.forward_head(classifier.forward_features(images))
    with pytest.raises(TypeError, match=r"no chain.*convolutional"):
        classifier.forward_pyramid(images)


def test_grad_explains_it_without_surrogate():
    result = Gradient().explain(small_vit(), lattice_images(3), TARGET)
    assert (result.attribution_map.amax((1, 2, 3)) == 1).all()


def test_weights_come_from_a_file(tmp_path):
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    ours = ViTClassifier(
        "tiny",
        str(tmp_path / "tiny.safetensors"),
        4,
        network=torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4),
    )
    for name, value in network.state_dict().items():
        assert torch.equal(ours.network.state_dict()[name], value)
    other = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 24, num_classes=4)
    with pytest.raises(ValueError, match=r"missing.*encoder_layer_2"):
        ViTClassifier("tiny", str(tmp_path / "tiny.safetensors"), 4, network=other)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "resnet18"}, ValueError, r"name='resnet18'.*vit_b_16"),
        ({"weights": "IMAGENET1K_V1", "num_classes": 10}, ValueError, "num_classes=10.*1000"),
        ({"network": nn.Linear(1, 1)}, TypeError, "network is a Linear.*VisionTransformer"),
        ({"network": VisionTransformer(8, 4, 1, 1, 4, 4, num_classes=3)}, ValueError, "num_classes=1000.*3 classes"),
    ],
    ids=["name", "classes", "network", "network's classes"],
)
def test_arguments_that_do_not_fit_are_refused(options, error, message, monkeypatch, tmp_path):
    # An empty cache and no address to ask: were the check to come after the download, this would be another error.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(error, match=message):
        ViTClassifier(**options)


def test_a_missing_file_is_named_with_the_enum_members(monkeypatch):
    tiny = VisionTransformer(8, 4, 1, 1, 4, 4)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, **options: tiny)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*IMAGENET1K_V1"):
        ViTClassifier("vit_b_16", "nowhere.pth")


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(24, 24\) pixels, vit_tiny takes 16 x 16"):
        small_vit()(lattice_images(2, side=24))
