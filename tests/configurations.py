"""Configuration files for the command line: a small evaluation, a small training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lab import WIDTHS

DATA: dict[str, Any] = {
    "class_path": "lightning_adv2.data.ShapesDataModule",
    "init_args": {"num_train": 32, "num_val": 14, "num_test": 35, "image_size": 32, "batch_size": 16},
}
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
EVALUATION = "lightning_adv2.evaluation.AttackEvaluation"


def classifier(weights: Path | None) -> dict[str, Any]:
    """The network of ``lab.victim``."""
    options = {"num_classes": 7, "widths": list(WIDTHS), "stem_stride": 2, "weights": weights and str(weights)}
    return {"class_path": "lightning_adv2.models.ResidualClassifier", "init_args": options}


def rts(weights: Path, trained: Path | None = None) -> dict[str, Any]:
    """RTS with the victim as its encoder."""
    options = {"encoder": classifier(weights), "map_stride": 4, "width": 4, "weights": trained and str(trained)}
    return {"class_path": "lightning_adv2.interpreters.RTS", "init_args": options}


def write(path: Path, content: dict[str, Any]) -> str:
    """Write it as YAML; returns the path."""
    path.write_text(yaml.safe_dump(content))
    return str(path)


def evaluation(
    folder: Path,
    weights: Path,
    interpreter: dict[str, Any] | None = None,
    steps: int = 4,
    num_images: int = 6,
    batch_size: int = 4,
    **trainer: Any,
) -> str:
    """For ``test`` and ``predict``: PGD and CAM's joint attack; the run goes to ``folder/run``."""
    explained = interpreter or {"class_path": "lightning_adv2.interpreters.CAM"}
    attacks = [
        {"class_path": f"lightning_adv2.attacks.{name}", "init_args": {"steps": steps}} for name in ("pgd", "adv2_cam")
    ]
    source = {"source": DATA, "num_images": num_images, "batch_size": batch_size}
    callbacks = [{"class_path": EVALUATION, "init_args": {"attacks": attacks}}]
    return write(
        folder / "evaluation.yaml",
        {
            "model": {
                "class_path": "lightning_adv2.modules.IDLS",
                "init_args": {"classifier": classifier(weights), "interpreter": explained},
            },
            "data": {"class_path": "lightning_adv2.data.AttackDataModule", "init_args": source},
            "trainer": QUIET | {"default_root_dir": str(folder / "run"), "callbacks": callbacks} | trainer,
        },
    )


def training(
    folder: Path, weights: Path, selector_steps: int = 1, data: dict[str, Any] | None = None, **trainer: Any
) -> str:
    """For ``fit``: RTS, four steps long; the run goes to ``folder/trained``."""
    options = {"classifier": classifier(weights), "interpreter": rts(weights), "selector_steps": selector_steps}
    limits = trainer if "max_epochs" in trainer else trainer | {"max_steps": 4, "max_epochs": -1}
    return write(
        folder / "training.yaml",
        {
            "model": {"class_path": "lightning_adv2.modules.RTSModule", "init_args": options},
            "data": {**DATA, "init_args": DATA["init_args"] | (data or {})},
            "trainer": QUIET | {"default_root_dir": str(folder / "trained")} | limits,
        },
    )
