"""What a benchmark is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """From the command line.

    Attributes:
        device: where to run.
        data: the folder with real images and weights; random ones where it has none.
        rounds: paired rounds.
        quick: only whether everything runs.
        compile: also what is compiled, which takes half a minute each.
    """

    device: torch.device
    data: Path
    rounds: int = 5
    quick: bool = False
    compile: bool = False
