"""What waits for the start of a W&B run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any


class Unstarted:
    """A W&B run before its start: Lightning asks each logger for its run before a run may be refused.

    Args:
        start: starts the W&B run and returns it; called when an attribute of the run is first used.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._start(), name)


class Pending:
    """Values and settings that a W&B run has not taken yet, and a digest of all values.

    Attributes:
        acts: log the values and settings, first to last.
    """

    def __init__(self) -> None:
        self.acts: list[Callable[[], None]] = []
        self._values: dict[str, str] = {}

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Add values to the digest, all but the means of a run that is not finished."""
        self._values |= {key: str(value) for key, value in metrics.items() if not key.startswith("running/")}

    @property
    def digest(self) -> str | None:
        """SHA-256 of the last value under each key; None without a value."""
        content = json.dumps(sorted(self._values.items()))
        return hashlib.sha256(content.encode()).hexdigest() if self._values else None

    def log(self) -> None:
        """Call the acts; an act that raises stays the first."""
        while self.acts:
            self.acts[0]()
            del self.acts[0]

    def clear(self) -> None:
        """Forget everything."""
        self.acts, self._values = [], {}
