"""Sensitivity of the maps to noise: how far they move when nobody attacks, and the image is only noisy (Figure 15)."""

from lightning_adv2.studies.noise.measure import noise_name
from lightning_adv2.studies.noise.study import NoiseEvaluation

__all__ = ["NoiseEvaluation", "noise_name"]
