"""Another process that owns a folder, for tests of what may then not be done to it."""

from __future__ import annotations

import time
from pathlib import Path

import spawn

from lightning_adv2.runtime import ownership


def own(folder: Path, leave: Path) -> None:
    """Own a folder until a file is there."""
    ownership.BEAT_SECONDS = 0.1
    with ownership.owned(folder):
        print("mine", flush=True)
        while not leave.exists():
            time.sleep(0.02)


def start(folder: Path, leave: Path) -> spawn.Spawned:
    """Start a process that owns ``folder`` until the file ``leave`` is there, and return when it does."""
    owner = spawn.start(own, folder, leave, folder=leave.parent)
    owner.says("mine\n")
    return owner
