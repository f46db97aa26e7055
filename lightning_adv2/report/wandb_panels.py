"""Weights & Biases: a view of the records, never the only copy. A run without a key or a server goes on offline."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_adv2.report.figures import amplified, overlay
from lightning_adv2.report.records import BatchRecord, to_numpy

MAX_IMAGES = 16
MAX_CURVE_POINTS = 100


def wandb_logger(
    save_dir: str | Path = ".", project: str = "lightning_adv2", name: str | None = None, offline: bool | None = None
) -> WandbLogger:
    """A WandbLogger that cannot stop the run.

    Args:
        save_dir: where the run's files go.
        project: W&B project.
        name: display name of the run.
        offline: None decides by itself: online when a key is set up and the server answers, else offline.
    """
    import wandb

    if offline is None:
        offline = os.environ.get("WANDB_MODE") in (None, "offline") and not _has_key()
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(init_timeout=30, silent=True)
    if offline:
        # An explicit mode wins over the environment, of which a failed first attempt leaves a stale copy behind.
        settings.mode = "offline"
    logger = WandbLogger(name=name, save_dir=save_dir, project=project, offline=offline, settings=settings)
    if not offline:
        try:
            _ = logger.experiment  # connects now: a failure must not wait until the first result
        except wandb.errors.Error as error:
            rank_zero_warn(f"W&B is out of reach ({error}); the run goes on offline, 'wandb sync' uploads it later")
            return wandb_logger(save_dir, project, name, offline=True)
    return logger


def default_logger(folder: str | Path) -> Logger:
    """W&B in the run's folder, or CSV files where wandb is not installed."""
    try:
        return wandb_logger(folder, name=Path(folder).name)
    except ModuleNotFoundError:
        return CSVLogger(folder, name="", version="")


def _has_key() -> bool:
    """Whether a key is set up: in the environment, or by ``wandb login`` in the user's netrc file."""
    import wandb

    settings = wandb.Settings()
    if os.environ.get("WANDB_API_KEY") or settings.api_key:
        return True
    try:
        host = urlsplit(settings.base_url).hostname or ""
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_evaluation(
    logger: WandbLogger,
    records: Sequence[BatchRecord],
    curves: dict[str, dict[str, Tensor]],
    pictures: Sequence[Path],
    classes: Sequence[str],
    prefix: str,
) -> None:
    """Log the attack's curves over its steps, one table of images with maps overlaid, and the figures.

    Args:
        logger: where to.
        records: of the run, all of one interpreter.
        curves: from ``report.results.mean_traces``.
        pictures: PNG files.
        classes: class names.
        prefix: ``{stage}/{interpreter}``.
    """
    import wandb

    run: Any = logger.experiment
    step_key = f"{prefix}/attack_step"
    run.define_metric(step_key, hidden=True)
    run.define_metric(f"{prefix}/curve/*", step_metric=step_key)
    length = max((len(c["iou"]) for c in curves.values()), default=0)
    for k in torch.linspace(0, length - 1, min(length, MAX_CURVE_POINTS)).round().long().tolist():
        point = {
            f"{prefix}/curve/{attack}/{'asr' if name == 'success' else name}": float(curve[k])
            for attack, by_name in curves.items()
            for name, curve in by_name.items()
            if k < len(curve)
        }
        run.log({step_key: k + 1, **point})
    rows = list(islice((row for record in records for row in _image_rows(record, classes)), MAX_IMAGES))
    content: dict[str, Any] = {f"{prefix}/figures/{path.stem}": wandb.Image(str(path)) for path in pictures}
    if rows:
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        content[f"{prefix}/images"] = table
        # The same overlays as media panels, which need no click to open.
        content[f"{prefix}/overlays"] = [
            wandb.Image(row[column].image, caption=f"{row['image']}: {column}")
            for row in rows[:6]
            for column in row
            if column == "benign map" or column.endswith(" map")
        ]
    if content:
        run.log(content)


def log_pictures(logger: WandbLogger, pictures: Sequence[Path], prefix: str) -> None:
    """Log PNG files as ``{prefix}/figures/{name}``."""
    import wandb

    run: Any = logger.experiment
    run.log({f"{prefix}/figures/{path.stem}": wandb.Image(str(path)) for path in pictures})


def _image_rows(record: BatchRecord, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    import wandb

    for i, name in enumerate(record.image_id):
        row: dict[str, Any] = {
            "image": name,
            "label": classes[int(record.label[i])],
            "target": classes[int(record.target_class[i])],
            "benign": wandb.Image(to_numpy(record.images[i])),
            "benign map": wandb.Image(overlay(record.images[i], record.benign_map[i])),
            "target map": wandb.Image(overlay(record.images[i], record.target_map[i])),
        }
        for attack in record.attacks:
            if attack.schedule == "control":
                continue
            row[f"{attack.key} predicted"] = classes[int(attack.adv_predicted[i])]
            row[f"{attack.key} confidence"] = float(attack.confidence[i])
            row[f"{attack.key}"] = wandb.Image(to_numpy(attack.adv_images[i]))
            row[f"{attack.key} map"] = wandb.Image(overlay(attack.adv_images[i], attack.adv_map[i]))
            row[f"{attack.key} perturbation"] = wandb.Image(amplified(attack.adv_images[i], record.images[i]))
        yield row
