"""What is left to do once every callback has written its results into an evaluation's folder."""

from __future__ import annotations

from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import write_sums
from lightning_adv2.report.harmless import SAME, harmless
from lightning_adv2.report.html.run_page import FILE, write_run_page
from lightning_adv2.report.wandb.artifacts import evaluation
from lightning_adv2.report.wandb.logger import attempt
from lightning_adv2.report.wandb.panels import report_digest
from lightning_adv2.report.wandb.pieces import Piece, log_pieces
from lightning_adv2.report.wandb.studies import study_pieces
from lightning_adv2.results.run import Run


def finish(run: Run, logger: Logger | None = None) -> bool:
    """Write the run's page and the sums of all files, and log to W&B the studies and all files, each piece once.

    Errors become warnings.

    Args:
        run: an evaluation that has come to its end.
        logger: of the run.

    Returns:
        Whether the page was written.
    """
    with harmless(run.folder / FILE) as missing:
        write_run_page(run)
    with harmless(run.folder / SUMS, SAME):
        write_sums(run.folder)
    if isinstance(logger, WandbLogger):
        attempt(logger, lambda: log_pieces(logger, run.folder, pieces(run)))
    return not missing


def pieces(run: Run) -> list[Piece]:
    """What is logged beside the report: one piece per study, and the evaluation as an artifact."""
    return [*study_pieces(run.folder, run.about["stage"]), evaluation(run.folder, report_digest(run))]
