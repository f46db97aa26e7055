"""The contract of every interpreter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adv2.functional.classes import class_indices
from lightning_adv2.interpreters.checks import (
    ROUNDING,
    check_answer,
    check_classes,
    check_images,
    check_interpretation,
    check_modes,
    check_module,
    check_range,
)
from lightning_adv2.models import Classifier, MapNetwork, compiled_part, load_weights, save_weights
from lightning_adv2.types import Classes, Interpretation, State


class Interpreter(nn.Module, ABC):
    """Explains a classifier's decision by an attribution map that is differentiable with respect to the image.

    An interpreter owns only its own weights; the classifier is an argument, so that one interpreter explains any.
    """

    name: str
    """Short and lower case, for tables and log keys; by default the class's own."""
    differentiable = True
    """Whether the gradient of the map is right; attacks refuse an interpreter where it is not."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:
            raise TypeError(f"{cls.__name__}: write forward and leave __call__, which checks what goes in and out")
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def _checked(self, classifier: Classifier, images: Tensor, class_idx: Classes, state: State = ()) -> Interpretation:
        """What :meth:`forward` returns, for class indices of any whole-number type, or for one class for all images.

        Raises:
            TypeError: ``class_idx`` holds no numbers, or ``forward`` returns no :class:`Interpretation` of tensors.
            ValueError: ``class_idx`` holds no class indices; logits or map are of a wrong shape.
        """
        asked = class_indices(class_idx, len(images), images.device)
        result = super().__call__(classifier, images, asked, state)
        return check_interpretation(type(self).__name__, result, classifier, len(images))

    __call__: Callable[..., Any] = _checked

    def init_state(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
        """Where an iterative interpreter (MASK) starts, every leaf with B first; ``()`` for all others."""
        return ()

    def advance(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State) -> State:
        """One step of an iterative interpreter's own optimisation, differentiable; nothing for all others."""
        return state

    @abstractmethod
    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Explain ``class_idx`` in ``images``.

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)``, the class explained.
            state: an iterative interpreter goes one step on from here; from ``()`` it goes the whole way.

        Returns:
            Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1], with a graph to ``images`` if it requires grad.
        """

    def explain(self, classifier: Classifier, images: Tensor, class_idx: Classes) -> Interpretation:
        """The map of the unmodified network, detached: what is reported and compared, never what is attacked.

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)``, the class explained, or one class for all images.

        Raises:
            TypeError: the classifier or what ``forward`` returns is of a wrong type.
            ValueError: classifier or interpreter are in train mode or have a BatchNorm without statistics; images,
                classes, logits or map are of a wrong shape or range.
        """
        check_module("classifier", classifier, nn.Module)
        check_modes("classifier", classifier)
        check_modes("interpreter", self, harmless=(Interpreter,))
        check_images(images, ROUNDING)
        asked = class_indices(class_idx, len(images), images.device)
        check_classes(asked, classifier)
        try:
            with torch.no_grad():
                result = self(classifier, images.detach(), asked)
        except (AttributeError, IndexError, RuntimeError, TypeError):
            check_answer(classifier, images)  # says so, where it is the classifier that fails
            check_module("classifier", classifier, Classifier)
            raise
        check_range(type(self).__name__, result.attribution_map)
        aux = {key: value.detach() for key, value in result.aux.items()}
        return Interpretation(result.logits.detach(), result.attribution_map.detach(), aux, result.state)


class TrainableInterpreter(Interpreter):
    """An interpreter that predicts the map by a network of its own, and so can be trained: by RTS, distillation, AID.

    A subclass says which network that is, and in :meth:`decode` how a map comes from the features of its encoder.

    Args:
        build: makes the network, which predicts maps from an encoder's features, for the encoder it is given.
        encoder: a trained classifier of the same task. None takes a copy of the classifier explained when ``IDLS`` or a
            training brings the two together (:meth:`follow`); there is no network before.
        weights: ``.safetensors`` written by :meth:`save`; None for an untrained network.
        train_encoder: whether the encoder is trained, too; AID needs it, plain training leaves it as it is.
        name: for tables and log keys; by default the class's.
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
        """Take a copy of the classifier as encoder, and make the network; nothing is done where there is one.

        Args:
            classifier: the network explained; left as it is.

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
        """Predict the map from what the encoder sees.

        Args:
            scales: the encoder's ``forward_pyramid`` of B images.
            class_idx: ``(B,)``, the class explained.

        Returns:
            map ``(B, 1, h, w)`` in [0, 1], and what else came up on the way, for ``Interpretation.aux``.
        """

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """See :class:`Interpreter`; ``aux["encoder_logits"]`` ``(B, K)`` serves the encoder loss."""
        scales = self.network.encoder.forward_pyramid(images)
        attribution_map, aux = self.decode(scales, class_idx)
        aux["encoder_logits"] = logits = self.network.encoder.forward_head(scales[-1])
        if classifier is not self.network.encoder:  # otherwise both have been one pass
            logits = classifier(images)
        return Interpretation(logits, attribution_map, aux)

    def maps(self, images: Tensor, *classes: Classes) -> tuple[list[Tensor], Tensor]:
        """The maps of the same images for several classes, and the encoder's logits, from one pass of the encoder."""
        scales = self.network.encoder.forward_pyramid(images)
        asked = [class_indices(class_idx, len(images), images.device) for class_idx in classes]
        shown = [self.decode(scales, class_idx)[0] for class_idx in asked]
        return shown, self.network.encoder.forward_head(scales[-1])

    def load(self, path: str | Path) -> None:
        """Load a file written by :meth:`save`; the encoder stays as it is where the file has none.

        Raises:
            FileNotFoundError: no such file.
            ValueError: names the tensors that do not fit.
        """
        hint = f"train one with 'lightning-adv2 fit --config configs/train/{type(self).name}_*.yaml'"
        if load_weights(self.network, path, missing_hint=hint, optional_prefix="encoder."):
            self.network.own_encoder = True

    def save(self, path: str | Path) -> Path:
        """Write what is trained (not a frozen encoder) as ``.safetensors``, all or nothing."""
        return save_weights(self.network.trainable_state(), path)


def give_encoders(classifier: Classifier, interpreters: Iterable[nn.Module]) -> None:
    """Let every interpreter that came without an encoder follow the classifier, members of ensembles included."""
    for interpreter in interpreters:
        for part in list(interpreter.modules()):
            if isinstance(part, TrainableInterpreter):
                part.follow(classifier)


def require_autograd(interpreter: Interpreter) -> None:
    """Raise a clear error where gradients cannot be taken at all, which ``torch.enable_grad`` does not mend."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{type(interpreter).__name__} needs gradients, but torch.inference_mode is on; "
            "use torch.no_grad instead (in Lightning: Trainer(inference_mode=False))"
        )


def require_eager(interpreter: Interpreter, classifier: Classifier, spared: frozenset[str] = frozenset()) -> None:
    """Raise a TypeError where the map's gradient would be a second derivative of a compiled network, which is lost.

    Args:
        interpreter: for the message.
        classifier: the network explained.
        spared: names of the classifier's methods whose second derivative is not taken.
    """
    part = compiled_part(classifier, spared)
    if part is not None:
        where = f"its part {part!r}" if part else "the network"
        raise TypeError(
            f"classifier: {where} is compiled, and the gradient of {type(interpreter).__name__}'s map is a second "
            "derivative, which compiled networks lose without a word; give the network before torch.compile "
            "(for torch.compile(network) that is network._orig_mod), attacks accelerate it by themselves"
        )
