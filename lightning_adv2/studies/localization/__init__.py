"""Localisation error: how often the box made of a benign map misses the object (the paper's Table 2)."""

from lightning_adv2.studies.localization.study import LocalizationEvaluation

__all__ = ["LocalizationEvaluation"]
