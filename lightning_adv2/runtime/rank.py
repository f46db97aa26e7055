"""Which of a run's processes this is, by what launchers leave in the environment; loads nothing."""

from __future__ import annotations

import os


def rank() -> str:
    """The number of this process: of torchrun's, of those that Lightning started on this machine, or of SLURM's."""
    return _given("RANK") or _given("LOCAL_RANK") or _given("SLURM_PROCID") or "0"


def is_first() -> bool:
    """Whether this is the process that speaks for the run."""
    return rank() == "0" and (bool(_given("RANK")) or _given("NODE_RANK") in ("", "0"))


def _given(name: str) -> str:
    return os.environ.get(name, "")
