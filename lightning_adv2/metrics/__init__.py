"""torchmetrics over ``functional/``: the success of attacks on classifier and map, and the quality of maps."""

from lightning_adv2.metrics.attack import (
    AGREEMENTS,
    METRICS,
    AttackSuccessRate,
    MapComparison,
    MisclassificationConfidence,
    PerturbationNorm,
    PlausibleShare,
    attack_metrics,
)
from lightning_adv2.metrics.classification import BalancedAccuracy
from lightning_adv2.metrics.quality import MapAgreement, MapQuality, relative_losses, says_little

__all__ = [
    "AGREEMENTS",
    "METRICS",
    "AttackSuccessRate",
    "BalancedAccuracy",
    "MapAgreement",
    "MapComparison",
    "MapQuality",
    "MisclassificationConfidence",
    "PerturbationNorm",
    "PlausibleShare",
    "attack_metrics",
    "relative_losses",
    "says_little",
]
