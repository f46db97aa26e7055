"""Put a job that was told to stop back into SLURM's queue."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytorch_lightning as pl

SECONDS = 30
"""The time that the controller has for an answer; the job has little time left."""


def requeue(trainer: pl.Trainer) -> bool:
    """Ask SLURM to run this job again, and return whether the job is in the queue again. Never raises.

    Call it on global rank 0 when all is saved, because it ends the job. Lightning's own handler saves in the middle of
    a step and inside the signal handler, which is never exact and can hang with several processes; this function
    replaces the handler, and Lightning's environment stays as it is.

    Returns:
        False on other ranks, outside SLURM, with ``SLURMEnvironment(auto_requeue=False)``, and where SLURM refuses or
        does not answer within ``SECONDS``; in the last two cases a warning names the command to run by hand.
    """
    from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

    from lightning_adv2.runtime.lightning import cluster_environment

    if not requeues([cluster_environment(trainer)]) or not trainer.is_global_zero:
        return False
    queued, failure = requeue_job()
    if queued:
        rank_zero_info(
            f"SLURM: job {job_name(dict(os.environ))} is in the queue again and continues from what is saved"
        )
    else:
        rank_zero_warn(f"SLURM: {failure}")
    return queued


def requeues(plugins: Iterable[Any]) -> bool:
    """Return whether a trainer with these plugins puts its job back into the queue.

    Args:
        plugins: of the trainer; where no cluster environment is among them, Lightning's own choice counts.
    """
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for one in plugins:
        if isinstance(one, ClusterEnvironment):
            return isinstance(one, SLURMEnvironment) and one.auto_requeue
    return not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()


def requeue_job() -> tuple[bool, str]:
    """Ask SLURM to run this job again, and return whether it will, and if not, why not and what to do.

    Never raises, waits at most ``SECONDS`` for an answer, and loads no other module of the package.
    """
    job = job_name(dict(os.environ))
    if job is None:
        return False, (
            "SLURM_JOB_ID or SLURM_ARRAY_TASK_ID is no number, so the job cannot be put back into the queue; "
            "submit the same file again and it continues"
        )
    command = ["scontrol", "requeue", job]
    try:
        # A session of its own: the SIGTERM that a requeue brings must not reach scontrol before it has answered.
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
            start_new_session=True,
        )  # fmt: skip
        failure = None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr or done.stdout}".strip()
    except (OSError, subprocess.SubprocessError) as error:
        failure = str(error)
    if failure is None:
        return True, ""
    return False, (
        f"'{' '.join(command)}' failed ({failure}); everything is saved: "
        "run that command by hand, or submit the same file again, and it continues"
    )


def job_name(variables: dict[str, str]) -> str | None:
    """Return the job's name for ``scontrol``: ``123``, or ``123_4`` for a task of an array; None if unknown.

    Args:
        variables: the environment's.
    """
    job = variables.get("SLURM_JOB_ID", "")
    if array := variables.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{variables.get('SLURM_ARRAY_TASK_ID', '')}"
    return job if re.fullmatch(r"[0-9]+(_[0-9]+)?", job) else None
