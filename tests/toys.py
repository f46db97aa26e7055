"""Classifiers and interpreters so simple that what an attack or a study makes of them is known beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adv2.attacks import Attack, AttackInputs, LossTerm, Perturbation, PixelDelta, Stage, Step
from lightning_adv2.attacks.objective import Context, TargetClass, TargetMap
from lightning_adv2.attacks.steps import Seen, seen, total_loss
from lightning_adv2.data import ImageDataset
from lightning_adv2.functional.random import per_image
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State, without_map


class Linear(Classifier):
    """Logits linear in the pixels: the best perturbation has a closed form.

    Args:
        weight: ``(K, C * H * W)``.
        bias: ``(K,)``; none if left out.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.num_classes = len(weight)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]) if bias is None else bias)
        self.eval()

    @classmethod
    def drawn(cls, side: int, bias: tuple[float, float] = (0.0, 0.0)) -> Linear:
        """Two classes and small random weights for RGB images of this side."""
        weight = 0.02 * torch.randn(2, 3 * side * side, generator=torch.Generator().manual_seed(0))
        return cls(weight, torch.tensor(bias))

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        return [nn.Identity()]

    def forward_head(self, features: Tensor) -> Tensor:
        return features.flatten(1) @ self.weight.T + self.bias


class Always(nn.Module):
    """Sees one class in every image."""

    def __init__(self, seen: int, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(nn.functional.one_hot(torch.tensor(seen), num_classes).float())

    def forward(self, images: Tensor) -> Tensor:
        return self.bias.expand(len(images), -1)


class Oracle(nn.Module):
    """Knows all labels of a dataset by heart.

    Args:
        dataset: whose images it is asked about, and no others.
        threshold: on images of this mean brightness or less it is one class off.
    """

    def __init__(self, dataset: ImageDataset, threshold: float = -1.0) -> None:
        super().__init__()
        self.known = {dataset[i]["images"].numpy().tobytes(): dataset.label(i) for i in range(len(dataset))}
        self.threshold, self.num_classes = threshold, len(dataset.classes)

    def forward(self, images: Tensor) -> Tensor:
        label = torch.tensor([self.known[image.numpy().tobytes()] for image in images])
        wrong = images.mean((1, 2, 3)) <= self.threshold
        return nn.functional.one_hot((label + wrong) % self.num_classes, self.num_classes).float()


class OneConvolution(Classifier):
    """A convolution, a layer to be chosen, a ReLU and a linear head, with random weights.

    Args:
        logits: how many the head gives.
        middle: the layer to be chosen; none if left out.
        num_classes: what it says of itself, which may be wrong.
    """

    def __init__(self, logits: int = 4, middle: nn.Module | None = None, num_classes: int | None = None) -> None:
        super().__init__((0.5,) * 3, (0.25,) * 3)
        generator = torch.Generator().manual_seed(1)
        self.num_classes = logits if num_classes is None else num_classes
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), middle or nn.Identity(), nn.ReLU())
        self.fc = nn.Linear(6, logits)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.eval()

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        return [self.body]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.fc(features.mean((2, 3)))

    def class_weight(self) -> Tensor:
        return self.fc.weight


class LogitsAndFeatures(OneConvolution):
    """Returns more than logits."""

    def forward_head(self, features: Tensor) -> Any:
        return super().forward_head(features), features


Alteration = Callable[[Tensor, Tensor, Tensor], Tensor]


class AlteredCAM(CAM):
    """CAM whose maps are altered.

    Args:
        alter: from the maps ``(B, 1, h, w)``, the images ``(B, C, H, W)`` and the classes ``(B,)`` asked for, the maps
            that it shows.
        name: its own, or that of CAM.
    """

    def __init__(self, alter: Alteration, name: str = CAM.name) -> None:
        super().__init__()
        self.alter, self.name = alter, name

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        shown = super().forward(classifier, images, class_idx, state)
        return Interpretation(shown.logits, self.alter(shown.attribution_map, images, class_idx), shown.aux)


def nan_of(image: int, call: int | None = None) -> Alteration:
    """NaN as the map of one image of the batch, in every call or in that one alone."""
    calls = itertools.count(1)

    def alter(shown: Tensor, images: Tensor, class_idx: Tensor) -> Tensor:
        factor = torch.ones(len(images), 1, 1, 1, dtype=shown.dtype)
        if call in (None, next(calls)):
            factor[image] = torch.nan
        return shown * factor

    return alter


class Search(Step):
    """Draws a change of every pixel, and stays with what has the lowest loss so far.

    Args:
        terms: minimised; of constant weight, because losses of different steps are compared.
        amount: largest change of a pixel in a step.
    """

    needs_gradient = False

    def __init__(self, terms: Sequence[LossTerm], amount: float) -> None:
        self.set_terms(terms)
        self.amount = amount

    def set_terms(self, terms: Sequence[LossTerm]) -> None:
        for term in terms:
            if term.weight.start != term.weight.end:
                raise ValueError(f"{type(term).__name__}: weight={term.weight} changes; give a number")
        super().set_terms(terms)

    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        prepared = tuple(term.prepare(inputs) for term in self.terms)
        return parameter, parameter.new_full((len(parameter),), torch.inf), prepared

    @torch.no_grad()
    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        best, lowest, prepared = state
        adv_images = perturbation.apply(inputs.images, parameter)
        if self.needs_map:
            assert inputs.interpreter is not None
            shown = inputs.interpreter(inputs.classifier, adv_images, inputs.target_class)
        else:
            shown = without_map(inputs.classifier(adv_images))
        loss = total_loss(self.terms, Context(inputs, shown, progress, adv_images, parameter), prepared)
        better = loss < lowest
        best, lowest = torch.where(better[:, None, None, None], parameter, best), torch.where(better, loss, lowest)
        drawn = per_image(lambda g: 2 * torch.rand(parameter.shape[1:], generator=g) - 1, inputs.generators, parameter)
        moved = perturbation.project(inputs.images, best + self.amount * drawn)
        return moved, (best, lowest, prepared), seen(adv_images, shown, loss.isfinite())


def search(steps: int = 20, epsilon: float = 0.1, map_weight: float = 50.0) -> Attack:
    """A joint attack that takes no gradient; at ``map_weight=0`` on the class alone."""
    terms = [TargetClass(), *([TargetMap(map_weight)] if map_weight else [])]
    return Attack("search", "mine", PixelDelta(epsilon), [Stage(Search(terms, epsilon), steps)])
