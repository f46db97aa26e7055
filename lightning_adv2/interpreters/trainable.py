"""Interpreters that predict the map by their own network, and so can be trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_adv2.functional.classes import class_indices
from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.interpreters.checks import check_module
from lightning_adv2.models import Classifier, MapNetwork, load_weights, save_weights
from lightning_adv2.types import Classes, Interpretation, State


class TrainableInterpreter(Interpreter):
    """An interpreter that predicts the map by its own network and so can be trained: by RTS, distillation or AID.

    A subclass names the network, and computes in :meth:`decode` a map from the features of its encoder.

    Args:
        build: makes the network, which predicts maps from an encoder's features, for the encoder given.
        encoder: a trained classifier of the same task. None takes a copy of the classifier explained when ``IDLS`` or a
            training brings the two together (:meth:`follow`); before that there is no network.
        weights: ``.safetensors`` written by :meth:`save`; None for an untrained network.
        train_encoder: whether the encoder is trained, too; AID needs it, plain training leaves it unchanged.
        name: for tables and log keys; by default the class's.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: the network cannot be made for the encoder, or the weights do not fit.
    """

    network: MapNetwork

    def __init__(
        self,
        build: Callable[[Classifier], MapNetwork],
        encoder: Classifier | None = None,
        weights: str | None = None,
        train_encoder: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name or type(self).name
        self._plan: tuple[Callable[[Classifier], MapNetwork], str | None, bool] | None = build, weights, train_encoder
        if encoder is not None:
            self._make_network(encoder)
        self.eval()

    def __getattr__(self, name: str) -> Any:
        if name == "network" and name not in self._modules:
            raise RuntimeError(
                f"encoder=None: this {type(self).__name__} has no network before IDLS or a training brings it together "
                "with a classifier; name the encoder, or call follow(classifier)"
            )
        return super().__getattr__(name)

    def follow(self, classifier: Classifier) -> None:
        """Take a copy of the classifier as encoder, and make the network; without effect where there is a network.

        Args:
            classifier: the network explained; left unchanged.

        Raises:
            FileNotFoundError: no such file of weights.
            TypeError: ``classifier`` is no :class:`Classifier`.
            ValueError: the network cannot be made for it, or the weights do not fit.
        """
        if self._plan is not None:
            check_module("classifier", classifier, Classifier)
            self._make_network(deepcopy(classifier))

    def _make_network(self, encoder: Classifier) -> None:
        assert self._plan is not None
        build, weights, train_encoder = self._plan
        self.network = build(encoder)
        if weights is not None:
            self.load(weights)
        if train_encoder:
            self.network.train_encoder()
        self._plan = None
        self.eval()

    @abstractmethod
    def decode(self, scales: list[Tensor], class_idx: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map from the encoder's features.

        Args:
            scales: ``[(B, D_i, h_i, w_i), ...]``, the encoder's ``forward_pyramid``.
            class_idx: ``(B,)`` in [0, K), the class explained.

        Returns:
            Map ``(B, 1, h, w)`` in [0, 1], and further results ``(B, ...)`` by name for ``Interpretation.aux``.
        """

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and predicted map ``(B, 1, h, w)`` in [0, 1].

        ``aux["encoder_logits"]`` ``(B, K)`` serves the encoder loss l_enc (paper section 3.4).
        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            RuntimeError: the interpreter has no encoder yet; see :meth:`follow`.
        """
        scales = self.network.encoder.forward_pyramid(images)
        attribution_map, aux = self.decode(scales, class_idx)
        aux["encoder_logits"] = logits = self.network.encoder.forward_head(scales[-1])
        if classifier is not self.network.encoder:  # otherwise both have been one pass
            logits = classifier(images)
        return Interpretation(logits, attribution_map, aux)

    def maps(self, images: Tensor, *classes: Classes) -> tuple[list[Tensor], Tensor]:
        """The maps of the same images for several classes, and the encoder's logits, from one pass of the encoder.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            classes: class indices in [0, K), each ``(B,)`` or one class for all images.

        Returns:
            One map ``(B, 1, h, w)`` in [0, 1] for each of ``classes``, and logits ``(B, K)``.

        Raises:
            RuntimeError: the interpreter has no encoder yet; see :meth:`follow`.
            ValueError: ``classes`` holds no class indices.
        """
        scales = self.network.encoder.forward_pyramid(images)
        asked = [class_indices(class_idx, len(images), images.device) for class_idx in classes]
        shown = [self.decode(scales, class_idx)[0] for class_idx in asked]
        return shown, self.network.encoder.forward_head(scales[-1])

    def load(self, path: str | Path) -> None:
        """Load a file written by :meth:`save`; the encoder stays unchanged where the file holds none.

        Args:
            path: of the ``.safetensors`` file.

        Raises:
            FileNotFoundError: no such file.
            RuntimeError: the interpreter has no encoder yet; see :meth:`follow`.
            ValueError: names the tensors that do not fit.
        """
        hint = f"train one with 'lightning-adv2 fit --config configs/train/{type(self).name}_*.yaml'"
        if load_weights(self.network, path, missing_hint=hint, optional_prefix="encoder."):
            self.network.own_encoder = True

    def save(self, path: str | Path) -> Path:
        """Write the trained tensors (without a frozen encoder) as ``.safetensors``, all or nothing.

        Args:
            path: of the file.

        Returns:
            The path.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
            RuntimeError: the interpreter has no encoder yet; see :meth:`follow`.
        """
        return save_weights(self.network.trainable_state(), path)


def give_encoders(classifier: Classifier, interpreters: Iterable[nn.Module]) -> None:
    """Give a copy of the classifier to every interpreter without an encoder, members of ensembles included.

    Args:
        classifier: the network explained; left unchanged.
        interpreters: interpreters of any kind.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: a network cannot be made for the classifier, or its weights do not fit.
    """
    for interpreter in interpreters:
        for part in list(interpreter.modules()):
            if isinstance(part, TrainableInterpreter):
                part.follow(classifier)
