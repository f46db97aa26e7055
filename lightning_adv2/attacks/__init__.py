"""The joint attack: perturbations, loss terms, steps, one engine, and the ready attacks built from them."""

from lightning_adv2.attacks.engine import Attack, AttackResult, Stage, run_attack
from lightning_adv2.attacks.objective import EncoderClass, LossTerm, Problem, Ramp, TargetClass, TargetMap
from lightning_adv2.attacks.perturbation import Perturbation, PixelDelta
from lightning_adv2.attacks.presets import adv2, adv2_attack, adv2_cam, adv2_grad, adv2_rts, pgd
from lightning_adv2.attacks.steps import GradientStep, Step

__all__ = [
    "Attack",
    "AttackResult",
    "EncoderClass",
    "GradientStep",
    "LossTerm",
    "Perturbation",
    "PixelDelta",
    "Problem",
    "Ramp",
    "Stage",
    "Step",
    "TargetClass",
    "TargetMap",
    "adv2",
    "adv2_attack",
    "adv2_cam",
    "adv2_grad",
    "adv2_rts",
    "pgd",
    "run_attack",
]
