"""Attack what a validate or test loop hands over, and report it."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from torchmetrics import MetricCollection

from lightning_adv2.attacks import Attack, Preset, adv2_attack, pgd
from lightning_adv2.attacks.checks import check_gradient
from lightning_adv2.attacks.targets import BenignMap, Target
from lightning_adv2.callbacks.attack_batch import Timed, attack_batch
from lightning_adv2.callbacks.progress import StepProgress
from lightning_adv2.callbacks.rank_zero import on_rank_zero
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import weights_hash
from lightning_adv2.modules.idls import interpreters_of
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
from lightning_adv2.report.records import check_name, record_key
from lightning_adv2.report.results import logged_values, mean_traces
from lightning_adv2.report.tables import local_metrics, record_fields
from lightning_adv2.report.wandb_panels import log_evaluation, log_pictures


class AttackEvaluation(pl.Callback):
    """Run attacks on every batch of ``validate`` and ``test``, for any module with ``classifier`` and ``interpreter``.

    A module with several ``interpreters`` is attacked under each; an attack that ignores the map runs once for all.
    Each finished batch becomes one record file per interpreter; tables, figures, logged metrics and W&B panels are
    computed from the records at the end, so that they are the same for any number of processes. Files lie in
    ``default_root_dir`` (during ``fit`` in ``validation/step_*`` below it): ``records/``, ``results.json``,
    ``results.csv``, ``images.csv``, ``figures/``.

    Args:
        attacks: what to run, each fitted to the interpreter; None takes PGD and the interpreter's own ADV2, both in the
            ``fast`` schedule.
        num_images: attack no more than so many images, shared out evenly; None attacks all. For validation during
            ``fit``.
        seed: for everything that is drawn per image.
        target: makes the target maps that ADV2 aims at and that all maps are compared with; None takes the benign maps.
    """

    def __init__(
        self,
        attacks: list[Preset] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        target: Target | None = None,
    ) -> None:
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images={num_images}: attack at least 1, or leave it out for all")
        if attacks is not None and not attacks:
            raise ValueError("attacks=[]: give at least one, or leave it out for PGD and ADV2")
        for attack in attacks or []:
            check_name("attacks", attack.name)
        keys = [record_key(a.name, a.schedule) for a in attacks or []]
        if len(set(keys)) < len(keys):
            raise ValueError(f"attacks: name and schedule must tell them apart, got {', '.join(keys)}")
        self.attacks, self.num_images, self.seed, self.target = attacks, num_images, seed, target or BenignMap()
        check_name("target", self.target.name)
        self.summary: Summary | None = None
        self._attacked = 0
        self._running: dict[tuple[str, str], MetricCollection] = {}

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
        for interpreter in interpreters_of(pl_module):
            check_name("interpreter", interpreter.name)
            for attack in self._attacks(interpreter):
                if attack.needs_map:
                    check_gradient(attack.name, interpreter)
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
        plan = [(interpreter, self._attacks(interpreter)) for interpreter in interpreters_of(pl_module)]
        steps = sum(a.steps for place, (_, attacks) in enumerate(plan) for a in attacks if a.needs_map or not place)
        shared: dict[str, Timed] = {}
        running: dict[str, float] = {}
        count = 0
        with StepProgress(trainer, steps) as progress:
            for place, (interpreter, attacks) in enumerate(plan):
                record = attack_batch(
                    pl_module.classifier,  # type: ignore[arg-type]
                    interpreter,
                    batch,
                    attacks,
                    batch_index=index,
                    seed=self.seed,
                    target=self.target,
                    on_step=partial(progress.update, interpreter.name),
                    shared=shared,
                    place=place,
                )
                write_record(record, self._folder(trainer) / "records")
                running |= self._update_running(record)
                count = max(count, len(record.image_id))
        self._attacked += count
        # Curves of the means so far; only outside fit, whose x-axis is another.
        if trainer.logger is not None and trainer.state.fn != TrainerFn.FITTING and trainer.is_global_zero:
            trainer.logger.log_metrics(running, step=self._attacked)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute everything from the records, on one process; all log the same values."""
        if trainer.sanity_checking:
            return
        trainer.strategy.barrier("records written")
        self.summary = on_rank_zero(trainer, lambda: self._report(trainer, pl_module))
        stage = self._stage(trainer)
        for row in self.summary.rows:
            prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
            values = {f"{prefix}/{name}": value for name, value in logged_values(row).items()}
            pl_module.log_dict(values, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _attacks(self, interpreter: Interpreter) -> list[Attack]:
        return [a.against(interpreter) for a in self.attacks or [pgd(), adv2_attack(interpreter)]]

    def _stage(self, trainer: pl.Trainer) -> str:
        return "test" if trainer.testing else "val"

    def _folder(self, trainer: pl.Trainer) -> Path:
        root = Path(trainer.default_root_dir)
        if getattr(trainer, "fast_dev_run", False):
            return root / "fast_dev_run"  # a rehearsal must not replace finished results
        fitting = trainer.state.fn == TrainerFn.FITTING
        return root / "validation" / f"step_{trainer.global_step:06d}" if fitting else root

    def _update_running(self, record: BatchRecord) -> dict[str, float]:
        """Means so far, over the images that this process attacked."""
        values: dict[str, float] = {}
        for attack in record.attacks:
            keep = attack.valid.nonzero()[:, 0].tolist()
            metrics = self._running.setdefault((record.interpreter, attack.key), local_metrics())
            if keep:
                metrics.update(**record_fields(record, attack, keep))
                prefix = f"running/{attack.key}/{record.interpreter}"
                means = metrics.compute()
                values |= {f"{prefix}/{name}": float(means[name]) for name in ("asr", "confidence", "l1", "iou")}
        return values

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Summary:
        folder = self._folder(trainer)
        data = getattr(trainer, "datamodule", None)
        source = getattr(data, "source", data)
        manifest = getattr(data, "manifest", None)
        classifier, interpreters = pl_module.classifier, interpreters_of(pl_module)
        names = {"dataset": str(getattr(source, "name", "data")), "classifier": str(classifier.name)}  # type: ignore[union-attr]
        summary = summarize(read_records(folder / "records"), names)
        for part in summary.parts:
            if manifest is not None and part["considered"] == len(manifest.entries):
                # Images that the manifest passed over never reached this callback.
                part["considered"] += manifest.already_wrong
                part["already_wrong"] += manifest.already_wrong
        hashes = {interpreter.name: weights_hash(interpreter) for interpreter in interpreters}
        stamp = make_stamp(
            seed=self.seed,
            processes=trainer.world_size,
            precision=str(trainer.precision),
            device=str(trainer.strategy.root_device),
            classifier_sha256=weights_hash(classifier),  # type: ignore[arg-type]
            interpreter_sha256=hashes if len(hashes) > 1 else hashes[interpreters[0].name],
            manifest_sha256=hashlib.sha256(manifest.to_json().encode()).hexdigest() if manifest else None,
            manifest_seed=getattr(manifest, "seed", None),
            target=self.target.name,
        )
        write_results(folder, summary, stamp)
        classes = getattr(source, "class_titles", None) or [str(i) for i in range(classifier.num_classes)]  # type: ignore[union-attr, arg-type]
        pictures = write_figures(folder / "figures", read_records(folder / "records"), summary, classes)
        selected = max((part["selected"] for part in summary.parts), default=0)
        print_table(summary.rows, f"{names['dataset']}, {names['classifier']}: {selected} images")
        if isinstance(trainer.logger, WandbLogger):
            for name in hashes:
                records = list(read_records(folder / "records" / name))
                own = [path for path in pictures if len(hashes) == 1 or path.parent == folder / "figures" / name]
                log_evaluation(
                    trainer.logger, records, mean_traces(records), own, classes, f"{self._stage(trainer)}/{name}"
                )
            if len(hashes) > 1:
                common = [path for path in pictures if path.parent == folder / "figures"]
                log_pictures(trainer.logger, common, self._stage(trainer))
        return summary
