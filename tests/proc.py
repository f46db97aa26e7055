"""What the kernel says of a process; of one that has ended, that it does nothing."""

from __future__ import annotations

import signal
from pathlib import Path


def catches(process: int, *numbers: signal.Signals) -> bool:
    """Whether a process has a handler for each of the signals."""
    return all(_has(process, "SigCgt", number) for number in numbers)


def awaits(process: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process, such as a stopped one."""
    return _has(process, "ShdPnd", number)


def has_loaded(process: int, library: str) -> bool:
    """Whether a process has loaded a library, or begun to."""
    return library in _read(process, "maps")


def _has(process: int, mask: str, number: signal.Signals) -> bool:
    lines = _read(process, "status").splitlines()
    bits = next((line.split()[1] for line in lines if line.startswith(mask)), "0")
    return bool(int(bits, 16) >> (number - 1) & 1)


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:
        return ""
