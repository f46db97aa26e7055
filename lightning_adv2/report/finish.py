"""What is left to do once every callback has written its results into an evaluation's folder."""

from __future__ import annotations

from pytorch_lightning.loggers import Logger

from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import write_sums
from lightning_adv2.report.harmless import SAME, harmless
from lightning_adv2.report.html.run_page import FILE, write_run_page
from lightning_adv2.report.wandb.logger import settle
from lightning_adv2.report.wandb.sync import log_run
from lightning_adv2.results.run import Run


def finish(run: Run, logger: Logger | None = None) -> bool:
    """Write the run's page and the sums of all files, and log the run to W&B.

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
    log_run(logger, run)
    settle(logger)
    return not missing
