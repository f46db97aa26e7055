"""What the kernel says of a process; of one that has ended, that it does nothing."""

from __future__ import annotations

import signal
from pathlib import Path


def catches(process: int, *numbers: signal.Signals) -> bool:
    """Whether a process has a handler for each of the signals."""
    lines = _read(process, "status").splitlines()
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return all(int(mask, 16) >> (number - 1) & 1 for number in numbers)


def has_loaded(process: int, library: str) -> bool:
    """Whether a process has loaded a library, or begun to."""
    return library in _read(process, "maps")


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:
        return ""
