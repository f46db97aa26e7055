"""Start the logger of a folder: W&B online, else W&B offline, else CSV files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger

from lightning_adv2.report.wandb.files import sync_command
from lightning_adv2.report.wandb.keys import has_key, warn
from lightning_adv2.report.wandb.logger import PROJECT, RunLogger


def wandb_logger(
    save_dir: str | Path = ".",
    project: str = PROJECT,
    name: str | None = None,
    offline: bool | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Iterable[str] = (),
) -> RunLogger:
    """A logger for the W&B run of a folder; see :class:`RunLogger`.

    Args:
        save_dir: folder of the run.
        project: W&B project.
        name: display name of the run; None takes the folder's name.
        offline: log to files only; None follows ``WANDB_MODE``, and without that variable logs online if a key is set
            and the server answers.
        group: name that related runs share; see ``about.run_settings`` for the default.
        job_type: kind of the run, such as ``evaluate``.
        tags: words to filter by; an evaluation adds dataset, classifier, interpreters and attacks.
    """
    folder, about = Path(save_dir), {"group": group, "job_type": job_type, "tags": tuple(tags)}
    if offline is None:
        mode = os.environ.get("WANDB_MODE")
        offline = mode in ("offline", "dryrun") or (mode is None and not has_key())
    logger = RunLogger(folder, project, name, offline, **about)  # type: ignore[arg-type]
    if not offline:
        try:
            logger.connect()  # a failure must not wait until the first result
        except Exception as error:
            started = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*"
            warn(error, f"the run goes on, offline; upload it later by: wandb sync {started}")
            logger.tear_down()
            os.environ.pop("WANDB_API_KEY", None)  # offline too, W&B refuses to start with a malformed one
            return RunLogger(folder, project, name, True, **about)  # type: ignore[arg-type]
    return logger


def default_logger(folder: str | Path, job_type: str | None = None) -> Logger:
    """W&B in the run's folder; CSV files where wandb is not installed or does not even start.

    An offline run of W&B starts with the first values, so that a run that is refused leaves none.
    """
    try:
        logger = wandb_logger(folder, name=Path(folder).name, job_type=job_type)
        logger.reserve()
        return logger
    except ModuleNotFoundError:
        pass
    except Exception as error:  # such as a malformed setting in the environment
        command = sync_command(Path(folder))
        warn(error, f"the run goes on with CSV files; log an evaluation to W&B later by: {command}")
    return CSVLogger(folder, name="", version="")
