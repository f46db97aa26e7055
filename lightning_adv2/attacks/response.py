"""A first-order attack on MASK through the network's responses to masks, which are all that MASK sees of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.attacks.bilevel import margin, mask_interpreter, wanted_map
from lightning_adv2.attacks.objective import AttackInputs, Context, LossTerm, Ramp
from lightning_adv2.attacks.perturbation import Perturbation
from lightning_adv2.attacks.steps import Seen, Step, loss_gradient, seen, total_loss
from lightning_adv2.functional.masking import blend, resize_map
from lightning_adv2.functional.optim import Rule
from lightning_adv2.functional.random import per_image
from lightning_adv2.types import Interpretation, State


class ResponseStep(Step):
    """Shapes the target class's response to *any* mask, so that MASK's smallest deletion becomes the target map.

    MASK sees the network only through f_ct(phi(x; m)) (paper section 3.6). Where the target class's margin grows with
    the share of the target map that a mask keeps, ``margin = slope * (share - floor)`` within +-``clip``, deleting the
    target map and nothing else is optimal. So every step draws masks near the line from MASK's start to the
    target, and near MASK's path at the current iterate, and regresses the margins on this response. This needs first
    derivatives only, and does not vanish with the length of the inner optimisation.

    Every ``refresh`` steps the interpreter explains the iterate from scratch; only those maps are reported, and in
    between a step repeats its last report.

    Args:
        rule: from ``functional.optim``.
        step_size: in units of the parameter, over the stage.
        masks: number of masks drawn at a step, at least 1.
        own: share of the masks drawn from the inner optimisation's path at the last refresh, in [0, 1].
        noise: standard deviation of the smooth and rough noise added to a mask, >= 0.
        slope: of the response, in logits per share.
        floor: the share at which the margin is 0.
        clip: bound of the margin, in logits.
        kappa: margin wanted of the image itself, in logits.
        refresh: period in steps, at least 1.
        terms: further loss terms, without the map.

    Raises:
        ValueError: an argument is out of its range, or a term needs the map.
    """

    needs_map = True
    takes_map_terms = False

    def __init__(
        self,
        rule: Rule,
        step_size: Ramp,
        masks: int = 8,
        own: float = 0.5,
        noise: float = 0.3,
        slope: float = 20.0,
        floor: float = 0.35,
        clip: float = 4.0,
        kappa: float = 3.0,
        refresh: int = 5,
        terms: Sequence[LossTerm] = (),
    ) -> None:
        if masks < 1 or refresh < 1:
            raise ValueError(f"masks={masks}, refresh={refresh}: whole numbers, at least 1")
        if not (0 <= own <= 1 and noise >= 0):
            raise ValueError(f"own={own}, noise={noise}: a share in [0, 1] and a standard deviation of at least 0")
        self.set_terms(terms)
        self.rule, self.step_size, self.masks, self.own, self.noise = rule, step_size, masks, own, noise
        self.slope, self.floor, self.clip, self.kappa = slope, floor, clip, kappa
        self.refresh = refresh

    def init(self, inputs: AttackInputs, parameter: Tensor) -> State:
        """Step count ``(B,)``, the rule's state, the terms' prepared states, and the last refresh.

        Args:
            inputs: of B images, with a MASK.
            parameter: ``(B, ...)``, the perturbation's.

        Raises:
            ValueError: the interpreter is no MASK.
        """
        mask_interpreter(inputs)
        count = inputs.target_class.new_zeros(len(parameter))
        return count, self.rule.init(parameter), tuple(term.prepare(inputs) for term in self.terms), ()

    def __call__(
        self, inputs: AttackInputs, perturbation: Perturbation, parameter: Tensor, state: State, progress: float
    ) -> tuple[Tensor, State, Seen]:
        """The next parameter ``(B, ...)``, the next state and the report.

        For the arguments see :class:`Step`.

        Raises:
            ValueError: the interpreter is no MASK.
        """
        interpreter, target_map = mask_interpreter(inputs), wanted_map(inputs)
        count, rule_state, prepared, last = state
        images, target = inputs.images, inputs.target_class
        if not len(count) or int(count[0]) % self.refresh == 0:
            last = self._explain(inputs, perturbation.apply(images, parameter.detach()).detach())
        masks = self._draw(inputs, interpreter.start, last[3])
        wanted = self.answer(masks, target_map)
        leaf = parameter.detach().requires_grad_()
        with torch.enable_grad():
            adv_images = perturbation.apply(images, leaf)
            background = interpreter.background(adv_images)
            parts = [adv_images, *(blend(adv_images, background, masks[:, k]) for k in range(self.masks))]
            logits = inputs.classifier(torch.cat(parts))
            margins = margin(logits, target.repeat(len(parts))).view(len(parts), -1).T
            own, found = margins[:, 0], margins[:, 1:]
            # Margins beyond the clip count as the clip.
            found = torch.where(wanted >= self.clip, found.clamp(max=self.clip), found)
            found = torch.where(wanted <= -self.clip, found.clamp(min=-self.clip), found)
            loss = F.relu(self.kappa - own) + F.smooth_l1_loss(found, wanted, reduction="none").mean(1)
            interpretation = Interpretation(logits[: len(images)], target_map)
            if self.terms:
                context = Context(inputs, interpretation, progress, adv_images, leaf)
                loss = loss + total_loss(self.terms, context, prepared)
            gradient, finite = loss_gradient(loss, leaf)
        update, rule_state = self.rule.update(gradient, rule_state)
        moved = perturbation.project(images, parameter.detach() + self.step_size(progress) * update)
        shown = Interpretation(last[1], last[2])
        return moved, (count + 1, rule_state, prepared, last), seen(last[0], shown, finite)

    def answer(self, masks: Tensor, target_map: Tensor) -> Tensor:
        """The margin wanted for each mask.

        Args:
            masks: ``(B, M, 1, h, w)`` in [0, 1].
            target_map: ``(B, 1, h, w)`` in [0, 1].

        Returns:
            ``(B, M)`` in [-clip, clip], in logits.
        """
        kept = (masks * target_map[:, None]).flatten(2).sum(2)
        share = kept / target_map.flatten(1).sum(1, keepdim=True).clamp(min=1e-6)
        return (self.slope * (share - self.floor)).clamp(-self.clip, self.clip)

    def _explain(self, inputs: AttackInputs, adv_images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The iterate, its logits, its map from scratch, and the masks on the way there, ``(B, T, 1, h, w)``."""
        interpreter, way = mask_interpreter(inputs), []
        with torch.no_grad():
            state = interpreter.init_state(inputs.classifier, adv_images, inputs.target_class)
            for _ in range(interpreter.iterations):
                state = interpreter.advance(inputs.classifier, adv_images, inputs.target_class, state)
                way.append(state[0])
            logits = inputs.classifier(adv_images)
        return adv_images, logits, interpreter.map_of(state), torch.stack(way, 1)

    def _draw(self, inputs: AttackInputs, start: float, way: Tensor) -> Tensor:
        """Masks ``(B, M, 1, h, w)`` in [0, 1], from each image's own generator."""
        target_map, count = wanted_map(inputs), self.masks
        size = target_map.shape[-2:]
        generators = inputs.generators
        choice = per_image(lambda g: torch.rand(count, 3, 1, 1, 1, generator=g), generators, target_map)
        smooth = per_image(lambda g: torch.randn(count, 1, 3, 3, generator=g), generators, target_map)
        rough = per_image(lambda g: torch.randn(count, 1, *size, generator=g), generators, target_map)
        at = choice[:, :, 0]
        towards = (1 - at) * start + at * (1 - target_map)[:, None]
        index = (at.view(len(at), count) * way.shape[1]).long()
        taken = way[torch.arange(len(way), device=way.device)[:, None], index]
        smooth = resize_map(smooth.flatten(0, 1), size).view_as(rough)
        masks = torch.where(choice[:, :, 1] < self.own, taken, towards)
        return (masks + self.noise * torch.where(choice[:, :, 2] < 0.5, smooth, rough)).clamp(0, 1)
