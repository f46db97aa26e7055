"""``lightning-adv2 sync``: log finished records to W&B, after a run that could not."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lightning_adv2.report.finish import pieces
from lightning_adv2.report.run_report import draw_figures
from lightning_adv2.report.wandb.files import read_state, uploads, waiting
from lightning_adv2.report.wandb.logger import attempt
from lightning_adv2.report.wandb.panels import is_whole, log_run, report_digest
from lightning_adv2.report.wandb.pieces import log_pieces
from lightning_adv2.report.wandb.start import wandb_logger
from lightning_adv2.results.run import read_run


def sync(folder: str | Path) -> str:
    """Log an evaluation's tables, curves, figures, means, studies and files to its W&B run, unless that has them.

    A pure function of the records. It may be called at any time and as often as you like, and be killed: W&B gets each
    row once. Of a run that has not come to its end it logs what there is, but no curves, studies and files.

    Args:
        folder: the run's, with ``records/``.

    Returns:
        What was done, for a person to read.

    Raises:
        FileNotFoundError: there is no evaluation in ``folder``.
        ValueError: a file of it is damaged.
        RuntimeError: W&B did not take it; says why.
    """
    folder = Path(folder)
    try:
        run = read_run(folder)
    except FileNotFoundError as error:
        run_id = read_state(folder).get("id")
        remedy = f"; what it logged offline is uploaded by\n  {uploads(folder, run_id)}" if run_id else ""
        raise FileNotFoundError(f"{error}{remedy}") from error
    if not run.summary.rows:
        return f"{folder}: no batch is finished yet, so there is nothing to log"
    digest = report_digest(run)
    beside = pieces(run) if is_whole(run) else []

    def there() -> bool:
        known = read_state(folder)
        return known.get("reported") == digest and all(
            known.get("pieces", {}).get(piece.name) == piece.digest for piece in beside
        )

    if there():
        own = read_state(folder).get("id", "")
        if waiting(folder, own):
            return (
                f"{folder}: logged offline already, and not uploaded; with a key and a connection, upload it by\n"
                f"  {uploads(folder, own)}"
            )
        return f"{folder}: W&B has it already"
    pictures = draw_figures(run)
    logger = wandb_logger(folder, name=folder.resolve().name, job_type="evaluate")
    log_run(logger, run, pictures)
    attempt(logger, lambda: log_pieces(logger, folder, beside))
    offline, run_id = logger.offline, logger.version or ""
    logger.close()
    if not there():
        raise RuntimeError(f"{folder}: W&B did not take it, see the warning above; try again later, nothing is lost")
    if not offline:
        return f"{folder}: logged to W&B"
    return f"{folder}: logged offline; with a key and a connection, upload it by\n  {uploads(folder, run_id)}"


def main(options: Namespace) -> None:
    """Run ``lightning-adv2 sync``: a run that fails does not stop the others; the command fails at the end.

    Args:
        options: of :func:`lightning_adv2.cli.options.sync`.
    """
    failures = []
    for folder in options.runs:
        try:
            print(sync(folder), flush=True)
        except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
            failures.append(str(error))
    if failures:
        raise SystemExit("\n".join(failures))
