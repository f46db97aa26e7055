"""The rank of a process within its run, from the variables that launchers set; loads no other module."""

from __future__ import annotations

import os


def rank() -> str:
    """Return the number of this process as text, ``0`` where no launcher gave one.

    It is torchrun's number, that of the processes that Lightning started on this machine, or SLURM's.
    """
    return _given("RANK") or _given("LOCAL_RANK") or _given("SLURM_PROCID") or "0"


def is_first() -> bool:
    """Return whether this process speaks for the run: rank 0 on the first machine."""
    return rank() == "0" and (bool(_given("RANK")) or _given("NODE_RANK") in ("", "0"))


def _given(name: str) -> str:
    return os.environ.get(name, "")
