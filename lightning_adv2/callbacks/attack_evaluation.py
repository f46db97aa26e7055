"""Attack what a validate or test loop hands over, and report it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from torchmetrics import MetricCollection

from lightning_adv2.attacks import Attack, adv2_attack, pgd
from lightning_adv2.callbacks.attack_batch import attack_batch
from lightning_adv2.callbacks.progress import StepProgress
from lightning_adv2.metrics import METRICS
from lightning_adv2.models import weights_hash
from lightning_adv2.report import (
    BatchRecord,
    Summary,
    make_stamp,
    print_table,
    read_records,
    summarize,
    write_figures,
    write_record,
    write_results,
)
from lightning_adv2.report.records import record_key
from lightning_adv2.report.results import mean_traces
from lightning_adv2.report.tables import local_metrics, record_fields
from lightning_adv2.report.wandb_panels import log_evaluation


class AttackEvaluation(pl.Callback):
    """Run attacks on every batch of ``validate`` and ``test``, for any module with ``classifier`` and ``interpreter``.

    Each finished batch becomes one record file; tables, figures, logged metrics and W&B panels are computed from the
    records at the end, so that they are the same for any number of processes. Files lie in ``default_root_dir``
    (during ``fit`` in ``validation/step_*`` below it): ``records/``, ``results.json``, ``results.csv``, ``images.csv``,
    ``figures/``.

    Args:
        attacks: what to run; None takes PGD and the interpreter's own ADV2, both in the ``fast`` schedule.
        num_images: attack no more than so many images, shared out evenly; None attacks all. For validation during
            ``fit``.
        seed: for everything that is drawn per image.
    """

    def __init__(self, attacks: list[Attack] | None = None, num_images: int | None = None, seed: int = 0) -> None:
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images={num_images}: attack at least 1, or leave it out for all")
        if attacks is not None and not attacks:
            raise ValueError("attacks=[]: give at least one, or leave it out for PGD and ADV2")
        keys = [record_key(a.name, a.schedule) for a in attacks or []]
        if len(set(keys)) < len(keys):
            raise ValueError(f"attacks: name and schedule must tell them apart, got {', '.join(keys)}")
        self.attacks, self.num_images, self.seed = attacks, num_images, seed
        self.summary: Summary | None = None
        self._attacked = 0
        self._running: dict[str, MetricCollection] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the loop can be attacked, and start with an empty record folder."""
        if trainer.sanity_checking:
            return
        missing = [name for name in ("classifier", "interpreter") if not hasattr(pl_module, name)]
        if missing:
            raise TypeError(
                f"{type(pl_module).__name__} has no attribute {' and '.join(missing)}, which AttackEvaluation needs; "
                "use modules.IDLS or give your module both"
            )
        if torch.is_inference_mode_enabled():
            raise RuntimeError("an attack needs gradients: set Trainer(inference_mode=False)")
        self._attacked, self._running = 0, {}
        if trainer.is_global_zero:
            shutil.rmtree(self._folder(trainer) / "records", ignore_errors=True)
        trainer.strategy.barrier("records emptied")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch and write its record."""
        if trainer.sanity_checking or not len(batch["images"]):
            return
        if self.num_images is not None:
            share, rest = divmod(self.num_images, trainer.world_size)
            left = share + (trainer.global_rank < rest) - self._attacked
            if left <= 0:
                return
            batch = {key: value[:left] if hasattr(value, "__len__") else value for key, value in batch.items()}
        index = batch.get("batch_index", batch_idx * trainer.world_size + trainer.global_rank)
        attacks = self._attacks(pl_module)
        with StepProgress(trainer, sum(attack.steps for attack in attacks)) as progress:
            record = attack_batch(
                pl_module.classifier,  # type: ignore[arg-type]
                pl_module.interpreter,  # type: ignore[arg-type]
                batch,
                attacks,
                batch_index=index,
                seed=self.seed,
                on_step=progress.update,
            )
        self._attacked += len(record.image_id)
        write_record(record, self._folder(trainer) / "records")
        self._log_running(trainer, pl_module, record)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute everything from the records, on one process; all log the same values."""
        if trainer.sanity_checking:
            return
        trainer.strategy.barrier("records written")
        outcome: Summary | Exception | None = None
        if trainer.is_global_zero:
            try:
                outcome = self._report(trainer, pl_module)
            except Exception as error:  # the other processes wait for the broadcast: they must hear of it
                outcome = error
        outcome = trainer.strategy.broadcast(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None
        self.summary = outcome
        stage = self._stage(trainer)
        for row in self.summary.rows:
            prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
            values = {f"{prefix}/{name}": float(row[name]) for name in METRICS if row[name] is not None}
            pl_module.log_dict(values, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _attacks(self, pl_module: pl.LightningModule) -> Sequence[Attack]:
        return self.attacks or [pgd(), adv2_attack(pl_module.interpreter)]  # type: ignore[arg-type]

    def _stage(self, trainer: pl.Trainer) -> str:
        return "test" if trainer.testing else "val"

    def _folder(self, trainer: pl.Trainer) -> Path:
        root = Path(trainer.default_root_dir)
        if getattr(trainer, "fast_dev_run", False):
            return root / "fast_dev_run"  # a rehearsal must not replace finished results
        fitting = trainer.state.fn == TrainerFn.FITTING
        return root / "validation" / f"step_{trainer.global_step:06d}" if fitting else root

    def _log_running(self, trainer: pl.Trainer, pl_module: pl.LightningModule, record: BatchRecord) -> None:
        """Curves of the means so far, over the images attacked; only outside ``fit``, whose x-axis is another."""
        if trainer.logger is None or trainer.state.fn == TrainerFn.FITTING or not trainer.is_global_zero:
            return
        values: dict[str, float] = {}
        for attack in record.attacks:
            keep = attack.valid.nonzero()[:, 0].tolist()
            metrics = self._running.setdefault(attack.key, local_metrics())
            if keep:
                metrics.update(**record_fields(record, attack, keep))
                prefix = f"running/{attack.key}/{pl_module.interpreter.name}"  # type: ignore[union-attr]
                means = metrics.compute()
                values |= {f"{prefix}/{name}": float(means[name]) for name in ("asr", "confidence", "l1", "iou")}
        trainer.logger.log_metrics(values, step=self._attacked)

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Summary:
        folder = self._folder(trainer)
        data = getattr(trainer, "datamodule", None)
        source = getattr(data, "source", data)
        manifest = getattr(data, "manifest", None)
        classifier, interpreter = pl_module.classifier, pl_module.interpreter
        names = {
            "dataset": str(getattr(source, "name", "data")),
            "classifier": str(classifier.name),  # type: ignore[union-attr]
            "interpreter": str(interpreter.name),  # type: ignore[union-attr]
        }
        records = list(read_records(folder / "records"))
        summary = summarize(records, names)
        if manifest is not None and summary.denominators["considered"] == len(manifest.entries):
            # Images that the manifest passed over never reached this callback.
            summary.denominators["considered"] += manifest.already_wrong
            summary.denominators["already_wrong"] += manifest.already_wrong
        stamp = make_stamp(
            seed=self.seed,
            processes=trainer.world_size,
            precision=str(trainer.precision),
            device=str(trainer.strategy.root_device),
            classifier_sha256=weights_hash(classifier),  # type: ignore[arg-type]
            interpreter_sha256=weights_hash(interpreter),  # type: ignore[arg-type]
            manifest_sha256=hashlib.sha256(manifest.to_json().encode()).hexdigest() if manifest else None,
            manifest_seed=getattr(manifest, "seed", None),
        )
        write_results(folder, summary, stamp)
        classes = getattr(source, "class_titles", None) or [str(i) for i in range(classifier.num_classes)]  # type: ignore[union-attr, arg-type]
        pictures = write_figures(folder / "figures", records, summary, classes)
        title = f"{names['dataset']}, {names['classifier']}: {summary.denominators['selected']} images"
        print_table(summary.rows, title)
        if isinstance(trainer.logger, WandbLogger):
            prefix = f"{self._stage(trainer)}/{names['interpreter']}"
            log_evaluation(trainer.logger, records, mean_traces(records), pictures, classes, prefix)
        return summary
