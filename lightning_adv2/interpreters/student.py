"""Student: a network that learned another interpreter's maps and predicts them in one pass."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lightning_adv2.interpreters.trainable import TrainableInterpreter
from lightning_adv2.models import Classifier, StudentNetwork


class Student(TrainableInterpreter):
    """Imitates another interpreter, its teacher; ``modules.DistillationModule`` trains it.

    Args:
        encoder: a trained classifier of the same task; None takes a copy of the classifier explained (:meth:`follow`).
        map_stride: image pixels per map pixel; the teacher's maps are resized where they are of another size.
        width: channels between encoder and map.
        weights: ``.safetensors`` of the head, and of the encoder where it was trained, written by :meth:`save`; None
            for an untrained network.
        train_encoder: whether the encoder is trained, too, as AID needs it.
        name: for tables and log keys; ``student`` by default.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: ``map_stride`` is none of the encoder's strides, or the weights do not fit.
    """

    name = "student"
    network: StudentNetwork

    def __init__(
        self,
        encoder: Classifier | None = None,
        map_stride: int = 4,
        width: int = 32,
        weights: str | None = None,
        train_encoder: bool = False,
        name: str | None = None,
    ) -> None:
        build = partial(StudentNetwork, map_stride=map_stride, width=width)
        super().__init__(build, encoder, weights, train_encoder, name)

    def decode(self, scales: list[Tensor], class_idx: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map from the encoder's features.

        Args:
            scales: ``[(B, D_i, h_i, w_i), ...]``, the encoder's ``forward_pyramid``.
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            Map ``(B, 1, H / map_stride, W / map_stride)`` in [0, 1], and no further results.
        """
        return self.network.decode(scales, class_idx), {}
