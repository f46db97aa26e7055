"""Means so far, while an evaluation runs."""

from __future__ import annotations

from torchmetrics import MetricCollection

from lightning_adv2.results.records import BatchRecord
from lightning_adv2.results.tables import local_metrics, record_fields


class RunningMeans:
    """Means over the images that this process has seen; for curves and progress, never for results."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, str], MetricCollection] = {}
        self._values: dict[str, float] | None = {}

    def update(self, record: BatchRecord) -> None:
        """Add a batch."""
        self._values = None
        for attack in record.attacks:
            keep = attack.valid.nonzero()[:, 0].tolist()
            if keep:
                metrics = self._metrics.setdefault((record.interpreter, attack.key), local_metrics())
                metrics.update(**record_fields(record, attack, keep))

    def values(self) -> dict[str, float]:
        """``running/{attack}/{interpreter}/{metric}``."""
        if self._values is not None:
            return self._values
        found: dict[str, float] = {}
        for (interpreter, key), metrics in self._metrics.items():
            means = metrics.compute()
            prefix = f"running/{key}/{interpreter}"
            found |= {f"{prefix}/{name}": float(means[name]) for name in ("asr", "confidence", "l1", "iou")}
        self._values = found
        return found
