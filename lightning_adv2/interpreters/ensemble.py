"""Ensemble: the mean map of several interpreters, and their disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod

import torch
from torch import Tensor, nn

from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.interpreters.base import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.types import Interpretation, State


class Ensemble(Interpreter):
    """The mean of its members' maps (paper section 6, the first defence, which leaves the aggregation open).

    The maps are brought to the size of the map with the most pixels. ``aux["member_maps"]`` ``(B, M, h, w)`` holds them
    separately, ``aux["disagreement"]`` ``(B,)`` their mean pairwise L1 distance, in [0, 1]: an attack made for one
    member does not control the others.

    Args:
        members: at least two, with different names.

    Raises:
        ValueError: fewer than two members, or equal names.
    """

    def __init__(self, members: Sequence[Interpreter]) -> None:
        super().__init__()
        names = [member.name for member in members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"members={names}: give at least two interpreters, with different names")
        self.members = nn.ModuleList(members)
        self.differentiable = all(member.differentiable for member in members)

    def init_state(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> State:
        """The members' states in their order, every leaf with B first; ``()`` where no member is iterative.

        For arguments and errors see :meth:`Interpreter.init_state`.
        """
        states = tuple(member.init_state(classifier, images, class_idx) for member in self._members())
        return states if any(state != () for state in states) else ()

    def advance(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State) -> State:
        """The members' states after one step of every iterative member, every leaf with B first.

        For arguments and errors see :meth:`Interpreter.advance`.
        """
        if state == ():
            return ()
        pairs = zip(self._members(), state, strict=True)
        return tuple(member.advance(classifier, images, class_idx, own) for member, own in pairs)

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: State = ()) -> Interpretation:
        """Logits ``(B, K)`` and mean map ``(B, 1, h, w)`` in [0, 1]; the members' ``aux`` is passed on.

        For arguments and errors see :meth:`Interpreter.forward`.
        """
        states = state or [()] * len(self.members)
        shown = [
            member(classifier, images, class_idx, own) for member, own in zip(self._members(), states, strict=True)
        ]
        sizes = [tuple(one.attribution_map.shape[-2:]) for one in shown]
        maps = [resize_map(one.attribution_map, max(sizes, key=prod)) for one in shown]
        aux = {key: value for one in shown for key, value in one.aux.items()}
        aux["member_maps"] = torch.cat(maps, dim=1)
        aux["disagreement"] = torch.stack([map_l1(a, b) for a, b in combinations(maps, 2)]).mean(0)
        after = tuple(one.state for one in shown)
        return Interpretation(
            shown[0].logits, aux["member_maps"].mean(1, keepdim=True), aux, after if any(s != () for s in after) else ()
        )

    @property
    def member_names(self) -> list[str]:
        """The members' names, in the order of ``aux["member_maps"]``."""
        return [member.name for member in self._members()]

    def _members(self) -> list[Interpreter]:
        return [member for member in self.members if isinstance(member, Interpreter)]
