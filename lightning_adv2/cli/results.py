"""``report`` and ``sync``: they show studies by their classes, which register themselves when they are imported."""

import lightning_adv2.studies  # noqa: F401
from lightning_adv2.report.compare import main as report
from lightning_adv2.report.wandb.sync import main as sync

__all__ = ["report", "sync"]
