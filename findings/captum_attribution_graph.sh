#!/usr/bin/env bash
# captum 0.9.0: an attribution that can be differentiated, with a wrong derivative.
#
# A good guess: a tensor that requires gradients and has a grad_fn is differentiable in full; InputXGradient and
# IntegratedGradients either return a map cut off from the graph (as Saliency does) or a map whose derivative
# with respect to the image is right.
# Seen: both multiply the image, attached, by gradients computed without create_graph. The map requires gradients
# and backward() works, but the derivative holds the gradients constant and lacks the whole second-order term.
# On Linear, Tanh, Linear (float64) against central differences: relative error 1.01 for InputXGradient and
# 0.24 for IntegratedGradients.
# Where it hurts: an attack or a training loss on the map. The loss has a gradient, the optimiser moves, nothing
# warns, and the attack looks weak or the model robust. Compute the gradient with create_graph=True instead.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q captum==0.9.0 torch==2.15.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

STEP = 1e-5
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).double()
image = torch.randn(1, 4, dtype=torch.float64)


def summed_map(method, at):
    return method.attribute(at, target=0).sum()


cut_off = not summed_map(Saliency(model), image.clone().requires_grad_()).requires_grad
print("Saliency is cut off from the graph:", cut_off)
changed = not cut_off
for kind in (InputXGradient, IntegratedGradients):
    method = kind(model)
    leaf = image.clone().requires_grad_()
    total = summed_map(method, leaf)
    if not total.requires_grad:
        sys.exit(f"changed: {kind.__name__} is cut off from the graph")
    (derivative,) = torch.autograd.grad(total, leaf)
    moves = STEP * torch.eye(4, dtype=torch.float64)
    ends = [[summed_map(method, (image + s * move).requires_grad_()).detach() for s in (1, -1)] for move in moves]
    expected = torch.stack([(up - down) / (2 * STEP) for up, down in ends])
    error = float((derivative[0] - expected).norm() / expected.norm())
    print(f"{kind.__name__}: relative error of the derivative {error:.2f}")
    changed |= error < 0.05
if changed:
    sys.exit("changed: the derivative of the attribution is right, or Saliency is attached")
PYTHON
