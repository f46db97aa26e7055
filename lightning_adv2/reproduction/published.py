"""What the paper measured: ImageNet, 1,000 images, ResNet-50 (``first``) and DenseNet-169 (``second``).

Zhang et al., "Interpretable Deep Learning under Fire", USENIX Security 2020. Figures that the paper shows as plots are
here only as far as its text states them; where nothing is here, reports leave the place empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Place = tuple[str, ...]
"""Row of a table, such as ``("first", "cam", "adv2")``."""


@dataclass(frozen=True)
class Stated:
    """What the paper states of the rows of a study.

    Attributes:
        study: its name.
        keys: the values of a row that tell rows apart.
        rows: these values -> column -> the paper's figure.
    """

    study: str
    keys: tuple[str, ...]
    rows: Mapping[Place, Mapping[str, float]]


_ALL = ("grad", "cam", "mask", "rts")
_SECONDS = {"first": (0.99, 1.0, 0.99, 1.0), "second": (0.98, 1.0, 0.98, 1.0)}
_RATES = {"first": (1.0, 1.0, 0.98, 1.0), "second": (1.0, 1.0, 0.96, 1.0)}

EFFECTIVENESS: dict[Place, dict[str, float]] = {
    **{(which, name, "pgd"): {"asr": 1.0, "confidence": 1.0} for which in _RATES for name in _ALL},
    **{
        (which, name, "adv2"): {"asr": _RATES[which][i], "confidence": _SECONDS[which][i]}
        for which in _RATES
        for i, name in enumerate(_ALL)
    },
}
"""Table 3: ASR and mean confidence in the target class."""

LOCALIZATION = Stated(
    "localization",
    ("interpreter",),
    {
        ("grad",): {"error": 0.431},
        ("cam",): {"error": 0.438},
        ("mask",): {"error": 0.452},
        ("rts",): {"error": 0.342},
    },
)
"""Table 2: localisation error."""

SQUEEZERS = {
    "squeezing-bit2": "2-bit depth",
    "squeezing-bit3": "3-bit depth",
    "squeezing-median3x3": "median 3x3",
    "squeezing-nlm11-3-4": "non-local means 11-3-4",
}
"""Detector -> what the paper calls it."""
_DETECTED = {
    "squeezing-bit2": (0.923, 0.841, 0.940),
    "squeezing-bit3": (0.727, 0.892, 0.883),
    "squeezing-median3x3": (0.973, 0.986, 0.990),
    "squeezing-nlm11-3-4": (0.523, 0.747, 0.753),
}
DETECTION = Stated(
    "detection",
    ("detector", "interpreter", "attack"),
    {
        (detector, *place): {"detection_rate": rate}
        for detector, (pgd, mask, rts) in _DETECTED.items()
        for place, rate in {
            ("mask", "pgd"): pgd, ("rts", "pgd"): pgd, ("mask", "adv2"): mask, ("rts", "adv2"): rts
        }.items()
    },
)  # fmt: skip
"""Table 4: share detected at 5% false positives."""
ADAPTIVE_DETECTION = (0.034, 0.517)
"""Lowest and highest share of the adaptive attack's images that a squeezer detects (Table 4)."""

ADAPTIVE_MAPS: dict[Place, dict[str, float]] = {
    ("mask", "pgd"): {"l1": 0.28, "iou": 0.21},
    ("mask", "adv2"): {"l1": 0.09, "iou": 0.65},
    ("mask", "adaptive"): {"l1": 0.09, "iou": 0.61},
    ("rts", "pgd"): {"l1": 0.22, "iou": 0.29},
    ("rts", "adv2"): {"l1": 0.01, "iou": 0.93},
    ("rts", "adaptive"): {"l1": 0.02, "iou": 0.94},
}
"""Table 5: maps against the benign ones."""

MAPS: dict[Place, dict[str, float]] = {
    ("first", *place): values for place, values in ADAPTIVE_MAPS.items() if "adaptive" not in place
}
"""Figures 5 and 6, Table 12: only those that Table 5 repeats are stated in figures."""
MAPS[("first", "grad", "pgd")] = {"l1": 0.10}

TRANSFER = Stated("transfer", ("source", "interpreter"), {})
"""Table 9: maps by an interpreter that the attack was not made for; the table's figures are not at hand."""

SKIN_ACCURACY = 0.8227
"""Weighted multi-class accuracy of the skin-cancer classifier (Appendix C2)."""

PAPER_STEPS = {"pgd": 1000, "stadv": 800, "cam": 1400, "grad": 1004, "rts": 1300, "mask": 1400}
"""Gradient steps an image of the published schedules, for estimates of what a full run would take."""
