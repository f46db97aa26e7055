"""The end of an evaluation: tables, figures and stamp of the records, on one process."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.evaluation.kept_records import expected_records
from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.models import weights_hash
from lightning_adv2.modules.idls import interpreters_of
from lightning_adv2.report.run_report import write_report
from lightning_adv2.report.wandb.sync import log_run
from lightning_adv2.results.records import wait_for_records
from lightning_adv2.results.run import Run, read_run
from lightning_adv2.results.stamp import make_stamp
from lightning_adv2.results.summary import check_invalid
from lightning_adv2.runtime.folders import results_folder
from lightning_adv2.runtime.threads import arithmetic


def report_run(trainer: pl.Trainer, module: pl.LightningModule, seed: int, target: str, max_invalid: float) -> Run:
    """Read the records of all processes and write tables, figures and stamp.

    Args:
        trainer: its loop has come to its end on all processes.
        module: the module evaluated.
        seed: of the evaluation, for the stamp.
        target: name of the target map, for the stamp.
        max_invalid: share of the images that may be invalid under an attack.

    Raises:
        RuntimeError: records are missing; or, outside ``fit``, more images are invalid than ``max_invalid`` allows.
    """
    interpreters = interpreters_of(module)
    wait_for_records(expected_records(trainer, [one.name for one in interpreters]))
    run = read_run(results_folder(trainer))
    (run.folder / SUMS).unlink(missing_ok=True)
    device = trainer.strategy.root_device
    stamp = make_stamp(
        seed=seed,
        processes=trainer.world_size,
        precision=str(trainer.precision),
        device=str(device),
        arithmetic=arithmetic(device),
        classifier_sha256=weights_hash(module.classifier),  # type: ignore[arg-type]
        interpreter_sha256={one.name: weights_hash(one) for one in interpreters},
        manifest_sha256=run.experiment["manifest"],
        target=target,
        halvings={name: count for name, count in run.summary.halvings.items() if count},
    )
    write_report(run, stamp)
    try:
        check_invalid(run.summary, max_invalid)
    except RuntimeError as error:
        if trainer.state.fn != TrainerFn.FITTING:
            log_run(trainer.logger, run)  # the loop ends here, before the run is finished
            raise
        rank_zero_warn(str(error))  # a glance at a few images must not end a training
    return run
