"""Threat models: what an attacker may change, and how each attack moves it (the paper's two frameworks, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_adv2.attacks.objective import FlowSmoothness, LossTerm, Ramp
from lightning_adv2.attacks.perturbation import FlowField, Perturbation, PixelDelta
from lightning_adv2.functional import optim
from lightning_adv2.functional.optim import Rule

EPSILON = 0.031


@dataclass(frozen=True)
class Move:
    """A first-order rule and its step size over a stage.

    Attributes:
        rule: from ``functional.optim``.
        step_size: in units of the perturbation's parameter.
    """

    rule: Rule
    step_size: Ramp


class ThreatModel:
    """The parts that all attacks under a threat model share, whatever the interpreter (paper section 4).

    Attributes:
        prefix: of the attacks' names.
        perturbation: what may change.
        terms: loss terms beside class and map.
        paper: the published move.
        fast: the move of the fast schedule.
        paper_steps: classification and joint steps where the paper has one number for all interpreters.
    """

    prefix: str
    perturbation: Perturbation
    terms: tuple[LossTerm, ...]
    paper: Move
    fast: Move
    paper_steps: tuple[int, int] | None


class Pixels(ThreatModel):
    """The PGD framework (section 3.1): every pixel within an L-infinity ball.

    ``paper``: sign steps of 1/255. ``fast``: a step that decays to nothing, and Adam with a short memory: with its
    usual 0.9 and 0.999 a run of 50 steps ends far worse (CAM's IoU 0.84 against 0.98).

    Args:
        epsilon: radius in units of the pixel range, in (0, 1].
        keep_grey: keep grey images, whose channels are equal, grey; see :class:`PixelDelta`.

    Raises:
        ValueError: ``epsilon`` out of range.
    """

    def __init__(self, epsilon: float = EPSILON, keep_grey: bool = True) -> None:
        self.prefix, self.perturbation, self.terms, self.paper_steps = "", PixelDelta(epsilon, keep_grey), (), None
        self.paper = Move(optim.sign(), Ramp(1 / 255, 1 / 255))
        self.fast = Move(optim.adam(0.5, 0.5), Ramp(4 / 255, 0.0))


class Spatial(ThreatModel):
    """The StAdv framework (appendix A1; Xiao et al. 2018): every pixel moves to a position nearby.

    ``paper``: Adam with AMSGrad and 0.01 pixels a step. ``fast``: a larger step that decays to nothing. Grey images
    stay grey.

    Args:
        tau: weight of l_flow, >= 0; the paper's 0.0005.
        max_flow: bound on every pixel's move in either direction, in pixels; None leaves it to ``tau``.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, tau: float = 0.0005, max_flow: float | None = None) -> None:
        if tau < 0:
            raise ValueError(f"tau={tau}: a weight, at least 0 (the paper takes 0.0005)")
        start = 0.1 if max_flow is None else min(0.1, max_flow)
        self.prefix, self.perturbation = "stadv", FlowField(start, max_flow)
        self.terms, self.paper_steps = (FlowSmoothness(tau),), (200, 600)
        self.paper = Move(optim.adam(0.9, 0.999, amsgrad=True), Ramp(0.01, 0.01))
        self.fast = Move(optim.adam(0.8, 0.8), Ramp(0.1, 0.0))
