"""How far a map survives when everything that the model has learnt is taken from it."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_adv2.functional.randomisation import randomised, rank_correlation
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.metrics.attack import ImageMean
from lightning_adv2.models import Classifier


class RandomisationCheck(nn.Module):
    """Mean rank correlation of maps before and after classifier and interpreter are randomised (Adebayo et al. 2018).

    A map that does not depend on the model gives 1, and is worth as little as that is close. Images with NaN or
    infinity in a map are not in the mean.

    Args:
        classifier: the one explained; copied, as it is now.
        interpreter: the same.
        seed: for the randomisation.
    """

    def __init__(self, classifier: Classifier, interpreter: Interpreter, seed: int = 0) -> None:
        super().__init__()
        self.classifier, self.interpreter = randomised(classifier, seed), randomised(interpreter, seed)
        self.mean = ImageMean()

    def update(self, images: Tensor, label: Tensor, attribution_map: Tensor) -> None:
        """Add a batch: images ``(B, C, H, W)``, label ``(B,)`` and the maps for it ``(B, 1, h, w)``."""
        if not len(images):
            return
        after = self.interpreter.explain(self.classifier, images, label).attribution_map
        found = rank_correlation(attribution_map.detach(), after)
        self.mean.update(found[found.isfinite()])

    def compute(self) -> float:
        """The mean over all images seen, over all processes; NaN without any."""
        return float(self.mean.compute())

    def reset(self) -> None:
        """Forget all images."""
        self.mean.reset()
