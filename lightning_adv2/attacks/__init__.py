"""The joint attack: perturbations, loss terms, steps, one engine, and the ready attacks built from them."""

from lightning_adv2.attacks.accelerated_copy import AcceleratedCopy, Acceleration, make_accelerated_copy
from lightning_adv2.attacks.active import EarlyStopping
from lightning_adv2.attacks.adaptive import MemberMaps, SqueezedClass, SqueezedPrediction
from lightning_adv2.attacks.attack import Attack, AttackRecipe, Stage
from lightning_adv2.attacks.bilevel import BilevelStep
from lightning_adv2.attacks.checks import checked_inputs
from lightning_adv2.attacks.dispatch import ADV2, adv2, adv2_attack, with_constant_step
from lightning_adv2.attacks.engine import AttackResult, optimise, run_attack
from lightning_adv2.attacks.objective import (
    AttackInputs,
    EncoderClass,
    FlowSmoothness,
    LossTerm,
    Ramp,
    TargetClass,
    TargetMap,
)
from lightning_adv2.attacks.perturbation import FlowField, Perturbation, PixelDelta
from lightning_adv2.attacks.presets import adv2_cam, adv2_ensemble, adv2_grad, adv2_rts, pgd, stadv
from lightning_adv2.attacks.presets_mask import adv2_mask
from lightning_adv2.attacks.response import ResponseStep
from lightning_adv2.attacks.steps import GradientStep, Step
from lightning_adv2.attacks.targets import BenignMap, MapFile, RandomClass, RandomPatch, Target, TargetRequest
from lightning_adv2.attacks.threat_models import Pixels, Spatial, ThreatModel

__all__ = [
    "ADV2",
    "AcceleratedCopy",
    "Acceleration",
    "Attack",
    "AttackInputs",
    "AttackRecipe",
    "AttackResult",
    "BenignMap",
    "BilevelStep",
    "EarlyStopping",
    "EncoderClass",
    "FlowField",
    "FlowSmoothness",
    "GradientStep",
    "LossTerm",
    "MapFile",
    "MemberMaps",
    "Perturbation",
    "PixelDelta",
    "Pixels",
    "Ramp",
    "RandomClass",
    "RandomPatch",
    "ResponseStep",
    "Spatial",
    "SqueezedClass",
    "SqueezedPrediction",
    "Stage",
    "Step",
    "Target",
    "TargetClass",
    "TargetMap",
    "TargetRequest",
    "ThreatModel",
    "adv2",
    "adv2_attack",
    "adv2_cam",
    "adv2_ensemble",
    "adv2_grad",
    "adv2_mask",
    "adv2_rts",
    "checked_inputs",
    "make_accelerated_copy",
    "optimise",
    "pgd",
    "run_attack",
    "stadv",
    "with_constant_step",
]
