"""The callback that attacks the images of ``validate`` and ``test`` and reports the results."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_adv2.attacks import Acceleration, Attack, AttackRecipe, adv2_attack, pgd
from lightning_adv2.attacks.targets import BenignMap, Target
from lightning_adv2.data.evaluated import LimitsBatch
from lightning_adv2.evaluation.attack_batch import Shared, attack_batch
from lightning_adv2.evaluation.attackable import check_attackable, check_networks, rehearse
from lightning_adv2.evaluation.attacker import Attacker
from lightning_adv2.evaluation.batch_size import fitting_batch
from lightning_adv2.evaluation.closing import report_run
from lightning_adv2.evaluation.identity import claim_folder, num_batches
from lightning_adv2.evaluation.kept_records import expected_records, kept_record
from lightning_adv2.evaluation.memory import rows_of
from lightning_adv2.evaluation.pace import Pace, make_pace, parts_of
from lightning_adv2.evaluation.pilot import pilot
from lightning_adv2.evaluation.progress import StepProgress
from lightning_adv2.evaluation.running import RunningMeans
from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import write_sums
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.finish import finish
from lightning_adv2.report.harmless import SAME, harmless
from lightning_adv2.report.html.run_page import FILE
from lightning_adv2.report.wandb.logger import hold
from lightning_adv2.report.wandb.sync import log_run
from lightning_adv2.results import Summary, write_record
from lightning_adv2.results.records import check_name, record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.writing import logged_values
from lightning_adv2.runtime.describe import describe
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.ownership import is_owned, owned
from lightning_adv2.runtime.processes import on_rank_zero, wait_at_last_batch, wait_for_all
from lightning_adv2.runtime.signals import Abandoned, interruption_of
from lightning_adv2.runtime.threads import arithmetic, check_threads, computing_with
from lightning_adv2.types import Batch


class AttackEvaluation(pl.Callback, LimitsBatch):
    """Run attacks on every batch of ``validate`` and ``test``, for any module with ``classifier`` and ``interpreter``.

    A module with several ``interpreters`` is attacked under each; an attack that ignores the map runs once for all.
    Each finished batch becomes one record file per interpreter; tables, figures, logged metrics and W&B panels are
    computed from the records at the end, so that they are the same for any number of processes. A run that was
    interrupted goes on where it was when it is started again in the same folder, with as many processes as you like;
    a folder with the records of another experiment is refused. A batch that does not fit in memory is halved.

    Files lie in ``default_root_dir`` (during ``fit``, each time anew, in ``validation/step_*`` below it): ``records/``,
    ``results.json``, ``results.csv``, ``images.csv``, ``status.csv``, ``stamp.json``, ``figures/``. Outside ``fit``
    also ``report.html``, the page of all that this and the other callbacks left there.

    Args:
        attacks: what to run, each fitted to the interpreter; None takes PGD and the interpreter's own ADV2, both in the
            ``fast`` schedule.
        num_images: during ``fit``, attack no more than so many images, shared out evenly among the processes; None
            attacks all.
        seed: for everything that is drawn per image.
        target: makes the target maps that ADV2 aims at and that all maps are compared with; None takes the benign maps.
        max_invalid: share of the images under an attack that may be invalid (NaN, infinity, a constant benign map)
            before the run fails, when all is written; 0 is strict.
        acceleration: how gradients are computed; None takes what changes nothing but their rounding. Every figure is
            of the victim itself.
        threads: of each process on a CPU; None takes ``OMP_NUM_THREADS``, or without it all cores for one process, and
            refuses several. Their number is part of the experiment, because sums are rounded differently with another.
    """

    def __init__(
        self,
        attacks: list[AttackRecipe] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        target: Target | None = None,
        max_invalid: float = 0.05,
        acceleration: Acceleration | None = None,
        threads: int | None = None,
    ) -> None:
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images={num_images}: attack at least 1, or leave it out for all")
        if attacks is not None and not attacks:
            raise ValueError("attacks=[]: give at least one, or leave it out for PGD and ADV2")
        if not 0 <= max_invalid <= 1:
            raise ValueError(f"max_invalid={max_invalid}: a share in [0, 1]; 0 is strict")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}: give at least 1, or leave it out for OMP_NUM_THREADS")
        for attack in attacks or []:
            check_name("attacks", attack.name)
            check_name("attacks", attack.schedule)
        keys = [record_key(a.name, a.schedule) for a in attacks or []]
        if len(set(keys)) < len(keys):
            raise ValueError(f"attacks: name and schedule must tell them apart, got {', '.join(keys)}")
        self.attacks, self.num_images, self.seed, self.target = attacks, num_images, seed, target or BenignMap()
        check_name("target", self.target.name)
        self.max_invalid, self.acceleration = max_invalid, acceleration or Acceleration()
        self.threads = threads
        self.summary: Summary | None = None
        self.run: Run | None = None
        self._experiment = ""
        self._attacked, self._running, self._pace = 0, RunningMeans(), Pace()
        self._attacker, self._rehearsed = Attacker(self.acceleration), False
        self._until_end = ExitStack()

    def fitting_batch(self, trainer: pl.Trainer, image: Tensor) -> int:
        """How many images like ``image`` ``(C, H, W)`` fit into the memory at once, for ``batch_size: auto``."""
        module: Any = trainer.lightning_module
        check_networks(module, self.attacks_on)
        attacks = [(one, self.attacks_on(one)) for one in interpreters_of(module)]
        device = trainer.strategy.root_device
        sharing = trainer.num_devices if device.type == "cpu" else 1
        double = "64" in str(trainer.precision)  # the networks are not converted yet
        return fitting_batch(module.classifier, attacks, image, device, sharing * (2 if double else 1))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the loop can be attacked, and claim the folder of the records."""
        if trainer.sanity_checking:
            return
        if self.num_images is not None and trainer.state.fn != TrainerFn.FITTING:
            raise ValueError(
                f"num_images={self.num_images}: only for validation during fit, for it takes other images on another "
                "number of processes; give the data module's num_images (AttackDataModule)"
            )
        if trainer.state.fn != TrainerFn.FITTING:
            check_threads(trainer, self.threads)
        check_attackable(trainer, pl_module, self.attacks_on)
        self._until_end.enter_context(computing_with(self.threads))
        self._attacked, self._running, self.run, self._rehearsed = 0, RunningMeans(), None, False
        self._attacker.forget_weights()
        self._experiment = on_rank_zero(trainer, lambda: self._own_folder(trainer, pl_module))
        names = [one.name for one in interpreters_of(pl_module)]
        self._pace = make_pace(trainer, names, self.num_images is None)
        expected = expected_records(trainer, names)
        kept = sum(path.exists() for path in expected)
        if kept and kept == len(expected) and trainer.state.fn != TrainerFn.FITTING:
            hold(trainer.logger)  # what the W&B run has is not logged again
        if kept and trainer.is_global_zero:
            print(f"{kept} of {len(expected)} records are kept as they are: {results_folder(trainer)}", flush=True)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch and write its records; a record that is there already is kept."""
        if trainer.sanity_checking:
            return
        if len(batch["images"]):
            self._take(trainer, pl_module, batch, batch_idx)
        fitting = trainer.state.fn == TrainerFn.FITTING  # saves and stops at the end of this validation
        with nullcontext() if fitting else interruption_of(trainer).leaving(trainer):
            wait_at_last_batch(trainer)

    def _take(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.num_images is not None:
            share, rest = divmod(self.num_images, trainer.world_size)
            left = share + (trainer.global_rank < rest) - self._attacked
            if left <= 0:
                return
            batch = rows_of(batch, slice(0, left))
        index = batch.get("batch_index", batch_idx * trainer.world_size + trainer.global_rank)
        try:
            self._attack(trainer, pl_module, batch, index)
        except Abandoned:
            if trainer.state.fn == TrainerFn.FITTING:
                return  # fit saves and stops at the end of this validation
            interruption_of(trainer).stop(trainer, "finished batches are saved")
        # Curves of the means so far; only outside fit, whose x-axis is another.
        if trainer.logger is not None and trainer.state.fn != TrainerFn.FITTING and trainer.is_global_zero:
            trainer.logger.log_metrics(self._running.values(), step=self._attacked)

    def _attack(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, index: int) -> None:
        plan = [(interpreter, self.attacks_on(interpreter)) for interpreter in interpreters_of(pl_module)]
        parts = [part for k, (one, attacks) in enumerate(plan) for a in attacks if a.needs_map or not k
                 for part in parts_of(one.name, a)]  # fmt: skip
        classifier: Any = pl_module.classifier
        copies = partial(self._attacker.accelerated, classifier, images=batch["images"])
        interruption, shared, count = interruption_of(trainer), Shared(index, self.seed, self.target, copies), 0
        with StepProgress(trainer, parts, self._pace, len(batch["images"]), self._running.values()) as progress:
            for place, (interpreter, attacks) in enumerate(plan):

                def on_step(attack: Attack, done: int, name: str = interpreter.name) -> None:
                    progress.update(name, attack, done)
                    interruption.check_parent()

                record = kept_record(trainer, interpreter.name, index, batch)
                if record is None:
                    if not self._rehearsed:
                        self._rehearsed = True
                        rehearse(classifier, [one for one, _ in plan[place:]], batch)
                    if progress.shows and self._pace.new:
                        with interruption.abandonable():
                            self._pace.tried = pilot(classifier, plan, batch, copies)
                    run = partial(attack_batch, classifier, interpreter, attacks=attacks, on_step=on_step)
                    with interruption.abandonable():
                        record = self._attacker.attack(run, batch, interpreter.name, shared)
                    record.experiment, record.place = self._experiment, place
                    (results_folder(trainer) / SUMS).unlink(missing_ok=True)  # from here on files change
                    write_record(record, results_folder(trainer) / "records")
                self._running.update(record)
                count = max(count, len(record.image_id))
        self._attacked += count

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute tables and figures from the records on one process, and log the same values on all processes."""
        if trainer.sanity_checking:
            return
        interruption = interruption_of(trainer)
        if trainer.state.fn != TrainerFn.FITTING:
            with interruption.leaving(trainer):
                wait_for_all(trainer)
        elif interruption.stop_training(trainer, left_validation=True):
            return  # some batches were not attacked, and the run stops after the next step
        self.summary = on_rank_zero(trainer, lambda: self._report(trainer, pl_module))
        stage = self._stage(trainer)
        for row in self.summary.rows:
            prefix = f"{stage}/{record_key(row['attack'], row['schedule'])}/{row['interpreter']}"
            values = {f"{prefix}/{name}": value for name, value in logged_values(row).items()}
            pl_module.log_dict(values, rank_zero_only=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page and log to W&B, after all other callbacks have written their files."""
        self._attacker.forget_weights()
        if trainer.state.fn == TrainerFn.FITTING and self.run is not None:
            with harmless(self.run.folder / SUMS, SAME):
                write_sums(self.run.folder)
            log_run(trainer.logger, self.run)
        elif self.run is not None and finish(self.run, trainer.logger):
            print(f"{self.run.folder / FILE}: open it in a browser", flush=True)
        self._until_end.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the folder; ``on_validation_end`` is not called after an exception."""
        self._until_end.close()

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end

    def attacks_on(self, interpreter: Interpreter) -> list[Attack]:
        """The attacks fitted to an interpreter, in the order of the table."""
        return [a.against(interpreter) for a in self.attacks or [pgd(), adv2_attack(interpreter)]]

    def _stage(self, trainer: pl.Trainer) -> str:
        return "test" if trainer.testing else "val"

    def _own_folder(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        """Own the folder while the loop runs, and claim it for this experiment; returns the experiment's hash."""
        if not is_owned(trainer.default_root_dir):  # the command line owns it from the start
            self._until_end.enter_context(owned(trainer.default_root_dir))
        return claim_folder(trainer, pl_module, self._settings(trainer, pl_module))

    def _settings(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What the results depend on besides networks and data."""
        return {
            "attacks": {one.name: describe(self.attacks_on(one)) for one in interpreters_of(pl_module)},
            "target": describe(self.target),
            "acceleration": describe(self.acceleration),
            "arithmetic": arithmetic(trainer.strategy.root_device),
            "seed": self.seed,
            "num_images": self.num_images,
            "batches": num_batches(trainer),
        }

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Summary:
        self.run = report_run(trainer, pl_module, self.seed, self.target.name, self.max_invalid)
        return self.run.summary
