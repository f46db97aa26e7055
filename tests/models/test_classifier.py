from __future__ import annotations

import warnings
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
import torchvision
from cases import NUM_CLASSES, randomize_, small_classifier
from safetensors.torch import save_file
from torch import nn

from lightning_adv2.models import Softplus, TorchvisionClassifier
from lightning_adv2.models.classifier import HardSigmoid

# name, side in pixels, whether the head is one linear layer behind global average pooling
FAMILIES = [
    ("resnet18", 64, True),
    ("densenet121", 64, True),
    ("squeezenet1_0", 64, True),
    ("vgg11_bn", 64, False),
    ("alexnet", 96, False),
    ("mobilenet_v2", 64, True),
    ("mobilenet_v3_small", 64, False),
    ("efficientnet_b0", 64, True),
    ("shufflenet_v2_x0_5", 64, True),
    ("regnet_x_400mf", 64, True),
    ("mnasnet0_5", 64, True),
    ("convnext_tiny", 64, False),
]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def both(name: str) -> tuple[TorchvisionClassifier, nn.Module]:
    """Our classifier and torchvision's network with the same random weights, BatchNorm statistics included."""
    networks = []
    for build in (
        lambda: TorchvisionClassifier(name, num_classes=6, mean=MEAN, std=STD),
        lambda: torchvision.models.get_model(name, weights=None, num_classes=6),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build()
        randomize_(network, torch.Generator().manual_seed(1))
        networks.append(network.eval())
    return networks[0], networks[1]


@pytest.mark.parametrize(("name", "side", "linear_head"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_every_family_equals_torchvision(name, side, linear_head):
    ours, theirs = both(name)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs((images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
        scales, features = ours.forward_pyramid(images), ours.forward_features(images)
        assert torch.equal(scales[-1], features)
        torch.testing.assert_close(ours.forward_head(features), ours(images))
    assert expected.std() > 1e-5  # else equality would say nothing
    sizes = [scale.shape[-1] for scale in scales]
    assert len(sizes) >= 3
    assert all(fine > coarse for fine, coarse in pairwise(sizes))
    assert all(scale.shape[1] > 3 for scale in scales), "the image itself is no feature map"
    if linear_head:
        weight = ours.class_weight()
        assert weight.shape == (6, features.shape[1])
        assert any(weight.data_ptr() == p.data_ptr() for p in ours.parameters())
    else:
        with pytest.raises(TypeError, match="global average pooling and one linear layer"):
            ours.class_weight()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_class_weight_is_the_derivative_of_the_logit(name):
    ours, _ = both(name)
    features = torch.rand(1, ours.class_weight().shape[1], 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours.forward_head(features)[0, 3], features)
    torch.testing.assert_close(gradient.sum((2, 3))[0], ours.class_weight()[3])


def test_it_comes_in_eval_mode_without_inplace_activations():
    ours = TorchvisionClassifier("resnet18", num_classes=3)
    assert not any(m.training for m in ours.modules())
    assert not any(getattr(m, "inplace", False) for m in ours.modules())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    (first,) = torch.autograd.grad(ours(images)[0, 0], images, create_graph=True)
    torch.autograd.grad(first.sum(), images)  # double backward: what GRAD's attack needs


def test_an_unknown_name_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"name='resnet5'.*resnet50"):
        TorchvisionClassifier("resnet5")


@pytest.mark.parametrize("name", ["inception_v3", "vit_b_16"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_network_that_is_no_chain_is_refused(name):
    with pytest.raises(ValueError, match=f"name='{name}'.*not one chain"):
        TorchvisionClassifier(name, num_classes=3)


def test_a_missing_file_is_named_with_the_enum_members():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*IMAGENET1K_V1"):
        TorchvisionClassifier("resnet18", "nowhere.pth")


def test_the_wrong_class_count_names_the_tensor(tmp_path):
    save_file(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "five.safetensors")
    with pytest.raises(ValueError, match=r"fc\.weight is \(5, 512\).*\(7, 512\).*num_classes"):
        TorchvisionClassifier("resnet18", str(tmp_path / "five.safetensors"), num_classes=7)


def test_published_weights_have_1000_classes(monkeypatch, tmp_path):
    # An empty cache and no address to ask: were the check to come after the download, this would be another error.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"num_classes=10.*1000"):
        TorchvisionClassifier("squeezenet1_1", "IMAGENET1K_V1", num_classes=10)


def test_the_wrong_architecture_is_refused(tmp_path):
    save_file(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "r18.safetensors")
    with pytest.raises(ValueError, match=r"missing.*Check the architecture"):
        TorchvisionClassifier("resnet34", str(tmp_path / "r18.safetensors"), num_classes=5)


def test_a_classifier_without_linear_head_refuses_cam():
    class NoHead(type(small_classifier())):  # type: ignore[misc]
        class_weight = TorchvisionClassifier.__base__.class_weight

    with pytest.raises(TypeError, match="NoHead: CAM needs"):
        NoHead(num_classes=NUM_CLASSES).class_weight()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalisation_lives_inside_and_follows_the_dtype(dtype):
    classifier = small_classifier(dtype=dtype)
    images = torch.rand(2, 3, 8, 8, dtype=dtype)
    expected = (images - torch.tensor([0.485, 0.456, 0.406], dtype=dtype).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225], dtype=dtype
    ).view(3, 1, 1)
    torch.testing.assert_close(classifier.normalize(images), expected, rtol=1e-5, atol=1e-6)
    assert classifier(images).dtype == dtype


def test_squeezenet_loads_with_its_own_normalisation(shared_data):
    classifier = TorchvisionClassifier(
        "squeezenet1_0",
        str(shared_data / "imagenet1k-samples/squeezenet1_0.safetensors"),
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
    )
    assert imagenet_accuracy(classifier, shared_data, 24) > 0.4  # published: 61 % top-1
    assert classifier.class_weight().shape == (1000, 512)


def test_resnet50_loads(shared_data):
    classifier = TorchvisionClassifier("resnet50", str(shared_data / "imagenet1k-samples/resnet50.safetensors"))
    assert imagenet_accuracy(classifier, shared_data, 12) > 0.6  # published: 81 % top-1


def imagenet_accuracy(classifier: nn.Module, shared_data, count: int) -> float:
    """Top-1 on ``count`` classes' images, evenly spread; centre crop of 224 px."""
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    correct = 0
    with zipfile.ZipFile(shared_data / "imagenet1k-samples/images.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        assert len(names) == 1000
        for label in range(0, 1000, 1000 // count):
            image = Image.open(io.BytesIO(archive.read(names[label]))).convert("RGB")
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            crop = np.asarray(image.crop((left, top, left + 224, top + 224)))
            with torch.no_grad():
                logits = classifier(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255)
            correct += int(logits.argmax() == label)
    return correct / len(range(0, 1000, 1000 // count))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_networks_whose_rules_ask_for_a_version_load_from_files(tmp_path, suffix, prefix):
    """MNASNet refuses tensors of an unknown version; a .safetensors file has none, a .pth file its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.mnasnet0_5(num_classes=5).eval()
    tensors = network.state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(nn.Sequential(OrderedDict(module=network)).state_dict() if prefix else tensors, path)
    else:
        save_file({f"{prefix}{name}": value for name, value in tensors.items()}, path)
    images = torch.rand(1, 3, 64, 64)
    classifier = TorchvisionClassifier("mnasnet0_5", str(path), num_classes=5)
    torch.testing.assert_close(classifier(images), network(classifier.normalize(images)))


@pytest.fixture
def no_download(monkeypatch):
    """Random weights in place of published ones: what is tested is what stands beside them."""
    get_model = torchvision.models.get_model
    monkeypatch.setattr(
        torchvision.models, "get_model", lambda name, weights=None, **options: get_model(name, weights=None, **options)
    )


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_v2_l"])
def test_published_weights_bring_their_normalisation(no_download, name, new_head):
    expected = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()
    classes = 3 if new_head else 1000
    classifier = TorchvisionClassifier(name, "IMAGENET1K_V1", num_classes=classes, new_head=new_head)
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor(expected.mean))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor(expected.std))


def test_weights_published_for_their_features_alone_are_refused(no_download):
    with pytest.raises(ValueError, match=r"FEATURES.*features of vgg16 alone.*IMAGENET1K_V1"):
        TorchvisionClassifier("vgg16", "IMAGENET1K_FEATURES", num_classes=3, new_head=True)


def test_a_normalisation_given_by_the_user_wins():
    classifier = TorchvisionClassifier("squeezenet1_1", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor([1.0, 2.0, 3.0]))


def test_hardsigmoid_has_its_second_derivative():
    """torch's own has none; the stand-in is equal to the bit, and MASK and GRAD differentiate twice."""
    z = torch.linspace(-5, 5, 1001)
    assert torch.equal(HardSigmoid()(z), nn.functional.hardsigmoid(z))
    classifier = TorchvisionClassifier("mobilenet_v3_small", num_classes=3)
    assert not any(isinstance(module, nn.Hardsigmoid) for module in classifier.modules())
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (first,) = torch.autograd.grad(classifier(images)[0, 0], images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images)
    assert second.isfinite().all()


# Of torch's activations hardsigmoid alone lacks a second derivative.
ACTIVATIONS = [
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid,
    nn.Hardsigmoid, nn.Softshrink, nn.Hardshrink,
]  # fmt: skip


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_has_a_second_derivative_inside_a_surrogate(kind):
    z = torch.linspace(-4, 4, 9).double().view(1, 1, 3, 3).requires_grad_()
    module = kind().double().eval()
    with Softplus():
        value = module(z)
    (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad((first * z).sum(), z)
    assert second.isfinite().all()


def test_a_new_head_over_one_that_would_fit_is_said(tmp_path):
    path = tmp_path / "trained.pth"
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), path)
    with pytest.warns(UserWarning, match="new_head=True: the last layer is random"):
        TorchvisionClassifier("resnet18", str(path), num_classes=4, new_head=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchvisionClassifier("resnet18", str(path), num_classes=3, new_head=True)
        TorchvisionClassifier("resnet18", str(path), num_classes=4)
