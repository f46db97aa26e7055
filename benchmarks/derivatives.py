"""Whether the map's gradient is right on torchvision's networks, as they are, compiled, and with in-place statements.

In double precision, against central differences; a map must also be the plain network's. A case is right, refused by an
error that names what is at fault, or wrong.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.options import Options
from benchmarks.pairing import Row
from lightning_adv2.interpreters import CAM, LRP, GradCAM, Gradient, IntegratedGradients, Interpreter, SmoothGrad
from lightning_adv2.models import Softplus, TorchvisionClassifier

NETWORKS = (
    "alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
    "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5",
    "mnasnet1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0",
    "efficientnet_v2_s", "convnext_tiny",
)  # fmt: skip
# Its derivative is exact: a relative surrogate holds the scale.
SMOOTH = Softplus(50.0, relative=False)
INTERPRETERS: dict[str, tuple[Callable[[], Interpreter], Softplus | None]] = {
    "GRAD": (Gradient, SMOOTH),
    "IG": (lambda: IntegratedGradients(steps=2), SMOOTH),
    "SmoothGrad": (lambda: SmoothGrad(samples=2), SMOOTH),
    "CAM": (CAM, None),
    "Grad-CAM": (GradCAM, None),
    "LRP": (LRP, None),
}
# The smaller a step, the fewer kinks of a maximum or of |.| it meets; the larger, the less it says about rounding.
SIDE, DIRECTIONS, STEPS = 64, 3, (1e-5, 1e-7, 1e-9)


class InPlace(nn.Module):
    """An activation that is written over its input, in a statement without a result."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """The activation of ``x``, in ``x``."""
        if isinstance(self.activation, nn.ReLU6):
            F.hardtanh_(x, 0.0, 6.0)
        elif isinstance(self.activation, nn.ReLU):
            torch.relu_(x)
        else:
            self.activation.inplace = True
            self.activation(x)
        return x


def _written_in_place(network: nn.Module) -> nn.Module:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if hasattr(child, "inplace"):
                setattr(module, name, InPlace(child).train(child.training))
    return network


def _compiled_in_part(network: TorchvisionClassifier) -> nn.Module:
    list(network.features.children())[-1].compile(backend="aot_eager")
    return network


VARIANTS: dict[str, Callable[[TorchvisionClassifier], nn.Module]] = {
    "plain": lambda network: network,
    # The derivatives are AOTAutograd's, whatever compiles what it hands on.
    "compiled whole": lambda network: torch.compile(network, backend="aot_eager"),
    "compiled in part": _compiled_in_part,
    "in place": _written_in_place,
}


def run(options: Options) -> list[Row]:
    """A row per network and interpreter, a column per variant."""
    rows = []
    for name in NETWORKS[3:4] if options.quick else NETWORKS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classifier = TorchvisionClassifier(name, num_classes=10).double().requires_grad_(False)
        for label, (build, surrogate) in INTERPRETERS.items():
            row: Row = {"network": name, "interpreter": label}
            expected: Tensor | None = None
            for variant, change in VARIANTS.items():
                torch.compiler.reset()
                network = change(copy.deepcopy(classifier))
                row[variant], expected = verdict(network, build(), surrogate, expected)
            print(json.dumps(row), flush=True)
            reasons = [told.partition(": ")[2] for told in row.values() if str(told).startswith("refused")]
            row |= {key: "refused" for key, told in row.items() if str(told).startswith("refused")}
            rows.append(row | {"refused because": reasons[0].splitlines()[0] if reasons else ""})
    return rows


def verdict(
    classifier: nn.Module, interpreter: Interpreter, surrogate: Softplus | None, expected: Tensor | None
) -> tuple[str, Tensor | None]:
    """``right``, ``refused: ...`` or ``WRONG: ...``, and the map ``(1, 1, h, w)`` that the next variant must have.

    Args:
        classifier: in double precision.
        interpreter: whose map is judged.
        surrogate: in which the attack takes the map's gradient.
        expected: the plain network's map; None where this is the plain network, or has none.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, SIDE, SIDE, generator=generator).double()
    target_class = torch.tensor([1])
    weight: list[Tensor] = []

    def value(x: Tensor) -> Tensor:
        with surrogate or nullcontext():
            shown = interpreter(classifier, x, target_class).attribution_map
        weight[:] = weight or [torch.rand(shown.shape, generator=torch.Generator().manual_seed(1)).double()]
        return (shown * weight[0]).sum()

    leaf = images.clone().requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(value(leaf), leaf)
        with surrogate or nullcontext():
            found = interpreter.explain(classifier, images, target_class).attribution_map
    except (TypeError, ValueError) as error:
        return f"refused: {error}", expected
    except Exception as error:
        return f"ERROR: {type(error).__name__}: {error}", expected
    if expected is not None and not torch.allclose(found, expected, atol=1e-6):
        return f"WRONG: the map differs by {(found - expected).abs().max():.2g}", expected
    misses = []
    for _ in range(DIRECTIONS):
        direction = torch.randn(images.shape, generator=generator).double()
        expected_change = (gradient * direction).sum()
        numerical = [
            (value(images + step * direction) - value(images - step * direction)).detach() / (2 * step)
            for step in STEPS
        ]
        misses.append(min(float((change - expected_change).abs()) for change in numerical))
    miss, norm = sorted(misses)[DIRECTIONS // 2], float(gradient.norm())
    if not norm and not miss:
        return "right (flat)", found
    return ("right" if miss <= 1e-3 * norm else f"WRONG: the gradient by {miss / norm:.2g}"), found
