"""Two control interpreters that explain nothing: one ignores the image, the other changes with every pixel.

A measure of robustness that ranks a control above a real interpreter measures something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State

# One pixel's move by one of 255 levels turns the phase of every pixel of the map by about this many radians: so far
# beyond a whole turn that nothing is left of the old value.
_TURN = 20.0
_WAVES = 8
_LONGEST_SIDE = 1024


class ConstantMap(Interpreter):
    """The same map for every image and class: a Gaussian blob in the middle, with zero gradient.

    A map with a single value everywhere would be left out of every figure; the blob is counted. No attack moves it (L1
    0, IoU 1), and where objects stand in the middle it even finds them (the objection of Yeh et al. 2019).

    Args:
        map_stride: image pixels per map pixel, at least 1.
        width: the blob's standard deviation, as a share of the map's sides, > 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    name = "constant"

    def __init__(self, map_stride: int = 4, width: float = 0.25) -> None:
        super().__init__()
        _check_stride(map_stride)
        if not width > 0:
            raise ValueError(f"width={width}: a share of the map's sides, more than 0")
        self.map_stride, self.width = map_stride, width

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, H // map_stride, W // map_stride)`` in [0, 1], at least 1 x 1.

        For the arguments see :meth:`Interpreter.forward`.
        """
        down, across = (self._profile(max(1, side // self.map_stride), images) for side in images.shape[-2:])
        blob = down[:, None] * across
        # A graph to the image, for those who take the gradient; it is zero, and NaN stays visible.
        attribution_map = blob + 0 * images.mean((1, 2, 3)).view(-1, 1, 1, 1)
        return Interpretation(classifier(images), attribution_map)

    def _profile(self, side: int, like: Tensor) -> Tensor:
        position = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side - 0.5
        return (-(position**2) / (2 * self.width**2)).exp()


class NoiseMap(Interpreter):
    """Independent noise at every pixel, other noise after the smallest change of the image; deterministic.

    m = 1/2 + 1/2 sin(phase), with phases that random projections of the image change by many turns for every level of
    every pixel. The map depends on image and class and is differentiable, but its slope holds for no finite step. The
    classifier has no influence on it.

    Args:
        map_stride: image pixels per map pixel, at least 1.
        seed: of the projections.

    Raises:
        ValueError: ``map_stride`` below 1.
    """

    name = "noise"
    image_waves: Tensor
    map_waves: Tensor

    def __init__(self, map_stride: int = 4, seed: int = 0) -> None:
        super().__init__()
        _check_stride(map_stride)
        self.map_stride = map_stride
        generator = torch.Generator().manual_seed(seed)
        # Products over channel, row and column, so that one set of numbers serves images of all sizes. The image's
        # are bounded away from 0: no pixel is overlooked.
        size = (_WAVES, 3, _LONGEST_SIDE)
        sign = 2.0 * torch.randint(0, 2, size, generator=generator) - 1
        self.register_buffer("image_waves", sign * (0.5 + torch.rand(size, generator=generator)))
        self.register_buffer("map_waves", torch.randn(_WAVES, 2, _LONGEST_SIDE, generator=generator))
        self.eval()

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, H // map_stride, W // map_stride)`` in [0, 1], at least 1 x 1.

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            ValueError: images of more than 1,024 pixels a side.
        """
        channels, height, width = images.shape[1:]
        if max(channels, height, width) > _LONGEST_SIDE:
            raise ValueError(f"images: {height} x {width} pixels; the noise is for up to {_LONGEST_SIDE} a side")
        # In double precision: a phase is thousands of radians.
        waves = self.image_waves.double()
        channel, row, column = waves[:, 0, :channels], waves[:, 1, :height], waves[:, 2, :width]
        seen = torch.einsum("bchw,qw,qh,qc->bq", images.double(), column, row, channel)
        turned = self.map_waves.double() * _TURN**0.5
        down, across = (turned[:, i, : max(1, side // self.map_stride)] for i, side in enumerate((height, width)))
        question = seen * 255 / _WAVES**0.5 + class_idx[:, None]
        phase = torch.einsum("bq,qi,qj->bij", question, down, across)
        return Interpretation(classifier(images), (0.5 + 0.5 * phase.sin()).unsqueeze(1).to(images.dtype))


def _check_stride(map_stride: int) -> None:
    if map_stride < 1:
        raise ValueError(f"map_stride={map_stride}: image pixels per map pixel, at least 1")
