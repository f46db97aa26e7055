"""MASK: the smallest blur that removes the class, found by optimisation (Fong and Vedaldi 2017; paper section 3.6)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.functional import optim
from lightning_adv2.functional.faithfulness import class_probability
from lightning_adv2.functional.losses import total_variation
from lightning_adv2.functional.masking import blend, gaussian_blur
from lightning_adv2.interpreters.base import Interpreter, require_autograd, require_eager
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

Form = Literal["refined", "plain"]
# Shifts repeat after this many iterations.
SHIFTS = 997


class MASK(Interpreter):
    """m* = argmin f_c(phi(x; m)) + l1 mean(1 - m) + tv TV(m) over 0 <= m <= 1, by Adam; the map is 1 - m*.

    phi(x; m) blurs x where m is 0 (paper section 3.6). Published numbers in pixels of a 224-px image scale with the
    image's shorter side. The published weights (L1 1e-4 and TV 1e-2 on sums over 28 x 28, or L1 1e-2 on the mean and TV
    1e-4) suit ImageNet networks; a mask that starts at 1 finds no slope where f_c is saturated, and leaves half of
    CIFAR-10's images with an empty map. So by default the mask starts at 0 (everything blurred), weighs its area 0.3
    and its roughness 5, and lets Adam's rate decay: at a constant rate ten iterations more change the thresholded map
    by 30%.

    The state is ``(mask (B, 1, h, w), Adam's (mean, variance, count))``.

    Args:
        form: ``refined`` jitters the image; ``plain`` does not. A default for ``jitter`` only.
        iterations: of Adam (the authors take 300 to 500 at a constant rate).
        size: the mask's cells along the image's shorter side, and in proportion more along the longer side; None takes
            28 from 64 px on and a quarter of the side below.
        sigma: of the blur, in pixels; None takes 10 at 224 px, and an eighth of the side below 64 px.
        l1: weight of mean(1 - m), the deleted share.
        tv: weight of the mean cubed difference of neighbours.
        jitter: largest shift of the blurred image at an iteration, in pixels; None takes 4 at 224 px, at least 1 (0 for
            ``plain``). The shift depends on the iteration's number alone: the map is a function of the image.
        lr: Adam's rate at the first iteration, in mask units.
        lr_end: the share of ``lr`` that is left at the last iteration, in (0, 1]; 1 keeps the rate constant.
        start: every pixel of the first mask, in [0, 1].

    Raises:
        ValueError: an argument is out of its range.
    """

    name = "mask"

    def __init__(
        self,
        form: Form = "refined",
        iterations: int = 60,
        size: int | None = None,
        sigma: float | None = None,
        l1: float = 0.3,
        tv: float = 5.0,
        jitter: int | None = None,
        lr: float = 0.1,
        lr_end: float = 0.1,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"form={form!r}: take one of {', '.join(get_args(Form))}")
        for argument, value, low in (("iterations", iterations, 1), ("size", size, 2), ("jitter", jitter, 0)):
            if value is not None and value < low:
                raise ValueError(f"{argument}={value}: give a whole number, at least {low}")
        for argument, number in (("l1", l1), ("tv", tv)):
            if not number >= 0:
                raise ValueError(f"{argument}={number}: a weight, at least 0")
        for argument, share in (("lr_end", lr_end), ("start", start)):
            if not 0 <= share <= 1:
                raise ValueError(f"{argument}={share}: give a number in [0, 1]")
        if not lr_end > 0:
            raise ValueError(f"lr_end={lr_end}: more than 0, or an attack could not look ahead")
        if not lr > 0 or (sigma is not None and not sigma > 0):
            raise ValueError(f"lr={lr}, sigma={sigma}: must be positive")
        self.form, self.iterations, self.size, self.sigma, self.jitter = form, iterations, size, sigma, jitter
        self.l1, self.tv, self.lr, self.lr_end, self.start = l1, tv, lr, lr_end, start
        self.rule = optim.adam()
        generator = torch.Generator().manual_seed(0)
        self._shifts: list[list[float]] = torch.rand(SHIFTS, 2, generator=generator).tolist()

    def init_state(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
        """The mask ``(B, 1, h, w)`` at ``start``, and Adam's zeros.

        For the arguments see :meth:`Interpreter.init_state`.

        Raises:
            ValueError: images with a side of a single pixel.
        """
        side = min(images.shape[-2:])
        if side < 2:
            height, width = images.shape[-2:]
            raise ValueError(f"images: {height} x {width} pixels; MASK blurs them, and needs at least 2 pixels a side")
        cells = self.size or (28 if side >= 64 else max(2, side // 4))
        size = [round(cells * length / side) for length in images.shape[-2:]]
        mask = images.new_full((len(images), 1, *size), self.start)
        return mask, self.rule.init(mask)

    @staticmethod
    def map_of(state: State) -> Tensor:
        """The map of a state: the deleted share 1 - m.

        Args:
            state: its first leaf is the mask ``(B, 1, h, w)``.

        Returns:
            ``(B, 1, h, w)`` in [0, 1].
        """
        mask: Tensor = state[0]
        return 1 - mask

    def background(self, images: Tensor) -> Tensor:
        """The blurred image, which stands where the mask is 0.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].

        Returns:
            The same shape and range.

        Raises:
            ValueError: a side of a single pixel.
        """
        side = min(images.shape[-2:])
        return gaussian_blur(images, self.sigma or (10 * side / 224 if side >= 64 else side / 8))

    def objective(
        self, classifier: Classifier, images: Tensor, class_idx: Tensor, mask: Tensor, iteration: int = 0
    ) -> Tensor:
        """The loss that the mask minimises: f_c(phi(x; m)) + l1 mean(1 - m) + tv TV(m) (paper section 3.6).

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), c.
            mask: ``(B, 1, h, w)`` in [0, 1], m.
            iteration: fixes the shift.

        Returns:
            ``(B,)``, >= 0.

        Raises:
            ValueError: a side of a single pixel, or logits that are not ``(B, K)`` with K >= 2.
        """
        shown = self._shift(blend(images, self.background(images), mask), iteration)
        score = class_probability(classifier, shown, class_idx)
        return score + self.l1 * (1 - mask).flatten(1).mean(1) + self.tv * total_variation(mask, 3)

    def advance(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State) -> State:
        """The state after one Adam step; keeps a graph to ``images`` and the incoming state where they require grad.

        For the arguments see :meth:`Interpreter.advance`.

        Returns:
            The mask ``(B, 1, h, w)`` in [0, 1], and Adam's state.

        Raises:
            TypeError: the classifier is compiled while the map is differentiated.
            RuntimeError: under ``torch.inference_mode``.
        """
        require_autograd(self)
        mask, rule_state = state
        differentiable = torch.is_grad_enabled() and (images.requires_grad or mask.requires_grad)
        if differentiable:
            require_eager(self, classifier)
        # All images of a batch are at the same iteration: they start together.
        iteration = int(rule_state[2][0]) if len(images) else 0
        with torch.enable_grad():
            leaf = mask if differentiable and mask.requires_grad else mask.detach().requires_grad_()
            seen = images if differentiable else images.detach()
            loss = self.objective(classifier, seen, class_idx, leaf, iteration)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=differentiable)
        update, rule_state = self.rule.update(gradient, rule_state)
        rate = self.lr * max(self.lr_end, 1 - iteration / self.iterations)
        mask = mask + rate * update
        return mask.clamp(0, 1), rule_state

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1]; from the state ``()`` the graph holds every iteration.

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the classifier is compiled while the map is differentiated.
            ValueError: images with a side of a single pixel.
            RuntimeError: under ``torch.inference_mode``.
        """
        fresh = isinstance(state, tuple) and not state
        if fresh:
            state = self.init_state(classifier, images, class_idx)
        for _ in range(self.iterations if fresh else 1):
            state = self.advance(classifier, images, class_idx, state)
        return Interpretation(classifier(images), self.map_of(state), state=state)

    def _shift(self, images: Tensor, iteration: int) -> Tensor:
        """Move the images by this iteration's jitter, repeating their borders."""
        reach = self.jitter
        if reach is None:
            reach = 0 if self.form == "plain" else max(1, round(4 * min(images.shape[-2:]) / 224))
        if not reach:
            return images
        down, right = (int(share * (2 * reach + 1)) for share in self._shifts[iteration % SHIFTS])
        height, width = images.shape[-2:]
        padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
        return padded[..., down : down + height, right : right + width]
