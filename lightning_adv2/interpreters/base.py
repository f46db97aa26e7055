"""The contract of every interpreter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
from lightning_adv2.models import Classifier, compiled_part
from lightning_adv2.types import Classes, Interpretation, State


class Interpreter(nn.Module, ABC):
    """Explains a classifier's decision by an attribution map that is differentiable with respect to the image.

    An interpreter owns only its own weights; the classifier is an argument, so that one interpreter explains any (g(x;
    f) in the paper, section 2).
    """

    name: str
    """Short and lower case, for tables and log keys; by default the class's own."""
    differentiable = True
    """Whether the gradient of the map is right; attacks that follow it refuse an interpreter where it is not."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:
            raise TypeError(f"{cls.__name__}: write forward and leave __call__, which checks arguments and results")
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def _checked(self, classifier: Classifier, images: Tensor, class_idx: Classes, state: State = ()) -> Interpretation:
        """The result of :meth:`forward`, for class indices of any whole-number type, or for one class for all images.

        Raises:
            TypeError: ``class_idx`` holds no numbers, or ``forward`` returns no :class:`Interpretation` of tensors.
            ValueError: ``class_idx`` holds no class indices; logits or map are of a wrong shape.
        """
        asked = class_indices(class_idx, len(images), images.device)
        result = super().__call__(classifier, images, asked, state)
        return check_interpretation(type(self).__name__, result, classifier, len(images))

    __call__: Callable[..., Any] = _checked

    def init_state(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
        """The first state of an iterative interpreter (MASK), every leaf with B first; ``()`` for all others.

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.

        Raises:
            ValueError: images that the interpreter cannot explain.
        """
        return ()

    def advance(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State) -> State:
        """The state after one step of an iterative interpreter's own optimisation; ``state`` for all others.

        Args:
            classifier: the network explained.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.
            state: from :meth:`init_state` or a former step, every leaf with B first.
        """
        return state

    @abstractmethod
    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """The decision and its explanation for ``class_idx`` (g(x; f), paper section 2).

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained.
            state: an iterative interpreter takes one step from here; ``()`` starts anew and takes all steps.

        Returns:
            Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1], with a graph to ``images`` if it requires grad.

        Raises:
            TypeError: the interpreter does not apply to this classifier.
            ValueError: images that the interpreter cannot explain.
            RuntimeError: gradients are needed, but ``torch.inference_mode`` is on.
        """

    def explain(self, classifier: Classifier, images: Tensor, class_idx: Classes) -> Interpretation:
        """The map of the unmodified network, detached: for reports and comparisons, never for the attack.

        Args:
            classifier: the network explained, in eval mode.
            images: ``(B, C, H, W)`` in [0, 1].
            class_idx: ``(B,)`` in [0, K), the class explained, or one class for all images.

        Returns:
            Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1].

        Raises:
            TypeError: the classifier or the result of ``forward`` is of a wrong type.
            ValueError: classifier or interpreter are in train mode or have a BatchNorm without statistics; images,
                classes, logits or map are of a wrong shape or range.
            RuntimeError: gradients are needed, but ``torch.inference_mode`` is on.
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
            check_answer(classifier, images)  # names the fault where the classifier has one
            check_module("classifier", classifier, Classifier)
            raise
        check_range(type(self).__name__, result.attribution_map)
        aux = {key: value.detach() for key, value in result.aux.items()}
        return Interpretation(result.logits.detach(), result.attribution_map.detach(), aux, result.state)


def require_autograd(interpreter: Interpreter) -> None:
    """Raise a RuntimeError under ``torch.inference_mode``, where ``torch.enable_grad`` has no effect.

    Args:
        interpreter: named in the error.

    Raises:
        RuntimeError: inference mode is on; the remedy is ``torch.no_grad``.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{type(interpreter).__name__} needs gradients, but torch.inference_mode is on; "
            "use torch.no_grad instead (in Lightning: Trainer(inference_mode=False))"
        )


def require_eager(interpreter: Interpreter, classifier: Classifier, spared: frozenset[str] = frozenset()) -> None:
    """Raise a TypeError where the map's gradient would be a second derivative of a compiled network, which is lost.

    Args:
        interpreter: named in the error.
        classifier: the network explained.
        spared: names of the classifier's methods whose second derivative is not taken.

    Raises:
        TypeError: names the compiled part.
    """
    part = compiled_part(classifier, spared)
    if part is not None:
        where = f"its part {part!r}" if part else "the network"
        raise TypeError(
            f"classifier: {where} is compiled, and the gradient of {type(interpreter).__name__}'s map is a second "
            "derivative, which compiled networks lose without a word; give the network before torch.compile "
            "(for torch.compile(network) that is network._orig_mod), attacks accelerate it by themselves"
        )
