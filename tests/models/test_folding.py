"""BatchNorm folded into convolutions: fewer layers, the same function."""

from __future__ import annotations

import pytest
import torch
from cases import randomize_, small_classifier
from torch import nn

from lightning_adv2.models import TorchvisionClassifier, fold_batchnorm


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_all_of_a_residual_network_is_folded_and_the_output_stays():
    network = small_classifier(dtype=torch.float64)
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    before, count = network(images).detach(), norms(network)
    assert fold_batchnorm(network, lambda: network(images)) == count
    assert norms(network) == 0
    torch.testing.assert_close(network(images), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenet_v2", 0),
        ("squeezenet1_1", 0),
        # Before the first convolution of a layer, behind a concatenation, it stands behind no convolution.
        ("densenet121", 62),
        ("vgg11_bn", 0),
    ],
)
def test_torchvision(name, left):
    network = TorchvisionClassifier(name, num_classes=7).double()
    randomize_(network, torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = network(images)
        fold_batchnorm(network, lambda: network(images))
        assert norms(network) == left
        torch.testing.assert_close(network(images), before, rtol=1e-9, atol=1e-9)


def test_nothing_is_folded_in_train_mode_or_behind_a_convolution_that_is_read_twice_by_norms():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.first(y) + self.second(y)

    x = torch.rand(1, 3, 8, 8)
    network = Twice().eval()
    assert fold_batchnorm(network, lambda: network(x)) == 0
    training = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    assert fold_batchnorm(training, lambda: training(x)) == 0
    own_statistics = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batchnorm(own_statistics, lambda: own_statistics(x)) == 0


def test_no_hook_is_left():
    network = small_classifier()
    fold_batchnorm(network, lambda: network(torch.rand(1, 3, 16, 16)))
    assert not any(m._forward_hooks for m in network.modules())


def test_what_was_changed_in_place_is_no_convolutions_output():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(torch.relu_(self.conv(x)))

    network = InPlace().eval()
    assert fold_batchnorm(network, lambda: network(torch.rand(1, 3, 8, 8))) == 0
