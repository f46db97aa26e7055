"""Detectors of adversarial images: fitted on benign images, evaluated on others (paper section 6)."""

from lightning_adv2.detectors.base import Detector, NotApplicableError, threshold_at
from lightning_adv2.detectors.disagreement import Disagreement
from lightning_adv2.detectors.lid import LID
from lightning_adv2.detectors.squeezing import FeatureSqueezing

__all__ = ["LID", "Detector", "Disagreement", "FeatureSqueezing", "NotApplicableError", "threshold_at"]
