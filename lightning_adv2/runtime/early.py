"""A signal that comes while the program is still being loaded; loads nothing itself."""

from __future__ import annotations

import signal
from types import FrameType

received: list[int] = []


def note_early() -> None:
    """Note SIGUSR1, which would end the process, until the run listens; the run then stops, and is queued again."""
    signal.signal(signal.SIGUSR1, _note)


def _note(number: int, frame: FrameType | None) -> None:
    received.append(number)
