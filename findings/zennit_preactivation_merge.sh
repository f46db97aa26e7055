#!/usr/bin/env bash
# zennit 0.5.1: SequentialMergeBatchNorm changes the function of a pre-activation network.
#
# A good guess: a canonizer rewrites a network without a change of its function (merging a BatchNorm into the
# convolution before it is exact), so that the relevance belongs to the logits of the model.
# Seen: "before" is the order in which modules are registered, not the order in which they run. A block that
# computes conv(relu(bn(x))) and registers conv ahead of bn has its BatchNorm folded into the convolution that
# runs after it. Inside the composite's context the logits differ by 69% of the largest logit; after the context
# the old logits are back, so that a check of accuracy before or after shows nothing. The same block with bn
# registered ahead of conv keeps its logits.
# Where it hurts: LRP maps of pre-activation ResNets, common in robustness work on CIFAR-10: they explain
# another network. Compare the logits inside and outside the context.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q zennit==0.5.1 torch==2.15.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus


class PreActivation(nn.Module):
    def __init__(self, conv_first):
        super().__init__()
        conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        for name, module in [("conv", conv), ("norm", norm)][:: 1 if conv_first else -1]:
            self.add_module(name, module)
        self.head = nn.Linear(3, 5)

    def forward(self, image):
        return self.head(self.conv(self.norm(image).relu()).mean((2, 3)))


changed = False
for conv_first in (True, False):
    torch.manual_seed(0)
    model = PreActivation(conv_first)
    images = torch.randn(32, 3, 16, 16)
    with torch.no_grad():
        for _ in range(50):
            model(2 * torch.randn(64, 3, 16, 16) + 1)
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.uniform_(-1, 1)
        model.eval()
        before = model(images)
        with EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]).context(model) as merged:
            inside = merged(images)
        after = model(images)
    error = float((inside - before).abs().max() / before.abs().max())
    order = "conv, norm" if conv_first else "norm, conv"
    print(f"registered {order}: largest change of a logit inside the context {error:.1e} of the largest logit")
    changed |= not torch.equal(before, after) or (error < 0.05 if conv_first else error > 1e-4)
if changed:
    sys.exit("changed: the merge no longer follows the order of registration")
PYTHON
