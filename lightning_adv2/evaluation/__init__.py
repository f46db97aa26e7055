"""Attack whatever has a classifier and an interpreter, batch by batch, and keep a record of each batch."""

from lightning_adv2.evaluation.attack_batch import attack_batch
from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation

__all__ = ["AttackEvaluation", "attack_batch"]
