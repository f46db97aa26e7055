"""CAM: the last feature maps, weighed by the class's weights in the final linear layer."""

from __future__ import annotations

from torch import Tensor

from lightning_adv2.functional.attribution import class_activation, minmax
from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


class CAM(Interpreter):
    """m_c = sum over k of w[c, k] a_k, min-max normalised, at the features' resolution (paper section 3.3)."""

    name = "cam"

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and map ``(B, 1, h, w)`` in [0, 1], of the last features' size (paper section 3.3).

        For the arguments see :meth:`Interpreter.forward`.

        Raises:
            TypeError: the classifier's head is no linear layer behind global average pooling.
        """
        features = classifier.forward_features(images)
        activation = class_activation(features, classifier.class_weight(), class_idx)
        return Interpretation(classifier.forward_head(features), minmax(activation))
