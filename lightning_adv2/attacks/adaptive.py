"""Loss terms of an attacker who knows the defence: a detector's squeezers, or an ensemble's members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adv2.attacks.objective import AttackInputs, Context, LossTerm, Ramp
from lightning_adv2.functional.losses import cross_entropy, map_mse
from lightning_adv2.functional.squeeze import BitDepth, Squeezer
from lightning_adv2.interpreters import Ensemble
from lightning_adv2.types import State


class SqueezedClass(LossTerm):
    """l_sqz: the squeezed image shall get the prediction of the image (section 6, adaptive attack).

    Args:
        squeezers: those that the detector is assumed to use, at least one.
        weight: see :class:`LossTerm`.

    Raises:
        ValueError: no squeezers.
    """

    needs_map = False

    def __init__(self, squeezers: list[Squeezer], weight: float | Ramp = 1.0) -> None:
        super().__init__(weight)
        if not squeezers:
            raise ValueError("squeezers=[]: give at least one, such as functional.squeeze.MedianFilter(3)")
        self.squeezers: Sequence[Squeezer] = tuple(squeezers)

    def loss(self, context: Context) -> Tensor:
        """Cross entropy between f(x) and f(psi(x)), the mean over the squeezers (section 6).

        Args:
            context: of B images.

        Returns:
            ``(B,)`` in nats, >= 0.
        """
        seen = context.interpretation.logits.softmax(1)
        squeezed = [context.inputs.classifier(squeezer(context.adv_images)) for squeezer in self.squeezers]
        return torch.stack([cross_entropy(logits, seen) for logits in squeezed]).mean(0)


class SqueezedPrediction(LossTerm):
    """Algorithm 2, for a bit depth: the image gets the prediction of an adversarial image x+ on the squeezer's levels.

    x+ comes from PGD in the squeezed space, starting from psi(x); then ||f(x) - f(x+)||_1 is minimised. The step of
    2^-i is a little less than a level, and is rounded to one level.

    Args:
        bits: i, from 2 to 8; at 1 the step would be rounded away.
        steps: of PGD in the squeezed space, at least 1.
        weight: see :class:`LossTerm`.

    Raises:
        ValueError: ``bits`` or ``steps`` out of range.
    """

    needs_map = False

    def __init__(self, bits: int = 2, steps: int = 10, weight: float | Ramp = 1.0) -> None:
        super().__init__(weight)
        if steps < 1 or bits < 2:
            raise ValueError(f"steps={steps}, bits={bits}: at least 1 step and 2 bits")
        self.squeezer, self.steps = BitDepth(bits), steps

    def prepare(self, inputs: AttackInputs) -> State:
        """f(x+), the prediction of PGD in the squeezed space (Algorithm 2).

        Args:
            inputs: of B images.

        Returns:
            ``(B, K)`` probabilities.
        """
        step_size = 2.0**-self.squeezer.bits
        x = self.squeezer(inputs.images).detach()
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = x.requires_grad_()
                loss = cross_entropy(inputs.classifier(leaf), inputs.target_class)
                (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            # Not within epsilon: x+ only provides a prediction that the squeezed network can reach.
            x = self.squeezer((x.detach() - step_size * gradient.sign()).clamp(0, 1)).detach()
        with torch.no_grad():
            logits: Tensor = inputs.classifier(x)
        return logits.softmax(1)

    def loss(self, context: Context) -> Tensor:
        """||f(x) - f(x+)||_1 of the class probabilities (Algorithm 2).

        Args:
            context: of B images, with f(x+) in ``prepared``.

        Returns:
            ``(B,)`` in [0, 2].
        """
        wanted: Tensor = context.prepared
        return (context.interpretation.logits.softmax(1) - wanted).abs().sum(1)


class MemberMaps(LossTerm):
    """l_int for an ensemble: the maps of its members, so that their disagreement stays that of the benign image.

    A member's target is the target map plus the difference of the member's map from the ensemble's in the benign image:
    for the benign target that is the member's own benign map. The paper leaves the adaptive attack on ensembles open
    (section 6).

    Args:
        weight: see :class:`LossTerm`.
        members: names of the members to aim at, for an attacker who knows only these; None takes all.
    """

    def __init__(self, weight: float | Ramp = 1.0, members: Sequence[str] | None = None) -> None:
        super().__init__(weight)
        self.members = members

    def prepare(self, inputs: AttackInputs) -> State:
        """The members' target maps.

        Args:
            inputs: of B images, with an :class:`Ensemble` and a target map.

        Returns:
            ``(B, M, h, w)`` in [0, 1].

        Raises:
            ValueError: the interpreter is no ensemble, or has no member of a name in ``members``.
        """
        assert inputs.target_map is not None
        with torch.no_grad():
            seen = inputs.classifier(inputs.images).argmax(1)
        ensemble = inputs.interpreter
        if not isinstance(ensemble, Ensemble):
            raise ValueError(f"MemberMaps needs an Ensemble, not {type(ensemble).__name__}; take TargetMap for others")
        self._chosen(ensemble)
        benign = ensemble.explain(inputs.classifier, inputs.images, seen)
        deviation = benign.aux["member_maps"] - benign.attribution_map
        return (inputs.target_map + deviation).clamp(0, 1)

    def loss(self, context: Context) -> Tensor:
        """Mean squared difference over the pixels of all members' maps (Eqn 4 per pixel).

        Args:
            context: of B images, with the members' target maps in ``prepared``.

        Returns:
            ``(B,)`` in [0, 1].
        """
        assert isinstance(context.inputs.interpreter, Ensemble)
        chosen = self._chosen(context.inputs.interpreter)
        return map_mse(context.interpretation.aux["member_maps"][:, chosen], context.prepared[:, chosen])

    def _chosen(self, ensemble: Ensemble) -> list[int]:
        names = ensemble.member_names
        unknown = sorted(set(self.members or ()) - set(names))
        if unknown:
            raise ValueError(f"members={unknown}: the ensemble has {', '.join(names)}")
        return [i for i, name in enumerate(names) if self.members is None or name in self.members]
