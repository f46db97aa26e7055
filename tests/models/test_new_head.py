"""Fine-tuning: published weights under a head of another size, and files that a training wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from lightning_adv2.models import TorchvisionClassifier, save_weights


def published(folder: Path, name: str, classes: int = 5) -> tuple[dict[str, torch.Tensor], str]:
    tensors = torchvision.models.get_model(name, num_classes=classes).state_dict()
    save_file(tensors, folder / f"{name}.safetensors")
    return tensors, str(folder / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc."), ("squeezenet1_1", "classifier.1."), ("mobilenet_v3_small", "classifier.3.")],
)
def test_all_but_the_last_layer_comes_from_the_file(name: str, head: str, tmp_path: Path) -> None:
    tensors, path = published(tmp_path, name)
    tuned = TorchvisionClassifier(name, path, num_classes=3, new_head=True)
    assert tuned(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    own = list(tuned.state_dict().values())
    for (tensor, value), here in zip(tensors.items(), own, strict=True):  # the same order under other names
        assert torch.equal(value, here) is not tensor.startswith(head), tensor
    assert own[-2].shape[0] == own[-1].shape[0] == 3
    with pytest.raises(ValueError, match="do not fit"):
        TorchvisionClassifier(name, path, num_classes=3)


def test_a_head_of_the_same_size_is_new_as_well(tmp_path: Path) -> None:
    tensors, path = published(tmp_path, "resnet18")
    tuned = TorchvisionClassifier("resnet18", path, num_classes=5, new_head=True)
    assert not torch.equal(tuned.class_weight(), tensors["fc.weight"])


def test_what_a_training_wrote_is_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = TorchvisionClassifier("resnet18", num_classes=4)
    path = str(save_weights(trained.state_dict(), tmp_path / "classifier.safetensors"))
    again = TorchvisionClassifier("resnet18", path, num_classes=4)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())
    tuned = TorchvisionClassifier("resnet18", path, num_classes=2, new_head=True)
    assert torch.equal(tuned.features[0].weight, trained.features[0].weight)
    assert tuned.class_weight().shape == (2, 512)
    with pytest.raises(ValueError, match=r"head\.2\.weight is \(4, 512\), the model's is \(7, 512\)"):
        TorchvisionClassifier("resnet18", path, num_classes=7)


def test_a_new_head_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="new_head=True: without weights all layers are random"):
        TorchvisionClassifier("resnet18", num_classes=3, new_head=True)


def test_other_layers_that_do_not_fit_are_named_all_the_same(tmp_path: Path) -> None:
    _, path = published(tmp_path, "resnet18")
    with pytest.raises(ValueError, match=r"missing: layer1\.2"):
        TorchvisionClassifier("resnet34", path, num_classes=3, new_head=True)
