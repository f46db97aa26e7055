"""What is logged to W&B beside a report, piece by piece, so that each piece is logged once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.files import read_bytes, text_limit
from lightning_adv2.report.wandb.files import PIECE, pieces_of, starts, sync_command


@dataclass(frozen=True)
class Piece:
    """A study's figure and tables, or an artifact.

    Attributes:
        name: tells it from the folder's others.
        digest: of its content; what has the same name and digest is there already.
        row: makes what is logged; called with W&B's run, to which it may hand an artifact first.
    """

    name: str
    digest: str
    row: Callable[[Any], dict[str, Any]]


@runtime_checkable
class Remembering(Protocol):
    """A logger that knows which pieces W&B has: :class:`RunLogger`."""

    failed: bool

    def pieces(self, folder: Path) -> dict[str, str]:
        """Digests by name."""

    def logged(self, folder: Path, name: str, digest: str) -> None:
        """Remember a piece."""


def log_pieces(logger: WandbLogger, folder: Path, pieces: Sequence[Piece]) -> None:
    """Log those pieces that the folder's W&B run has not, by its files and the server's summary. May raise."""
    remembering = logger if isinstance(logger, Remembering) else None
    known = remembering.pieces(folder) if remembering else {}
    missing = [piece for piece in pieces if known.get(piece.name) != piece.digest]
    experiment: Any = logger.experiment if missing else None
    if not missing or not hasattr(experiment, "dir") or getattr(experiment, "disabled", False):
        return
    root, own = Path(logger.save_dir or "."), Path(experiment.dir).parent
    earlier = [path for path in starts(root, experiment.id) if path != own]
    there = {mark for path in earlier for mark in pieces_of(path).items()}
    sent = set[tuple[str, str]]()
    if not experiment.offline:
        there |= {(one.name, str(experiment.summary.get(PIECE + one.name))) for one in missing}
    else:  # of what an online start sent, the server alone knows; what is logged twice cannot be taken back
        online = [path for path in starts(root, experiment.id, "run") if path != own]
        sent = {mark for path in online for mark in pieces_of(path).items()}
        if any((one.name, one.digest) in sent for one in missing) and not (remembering and remembering.failed):
            rank_zero_warn(f"a part of this was logged online; complete it there by: {sync_command(folder)}")
    for piece in missing:
        mark = (piece.name, piece.digest)
        if mark in sent - there:
            continue
        if mark not in there:
            experiment.log({PIECE + piece.name: piece.digest, **piece.row(experiment)})
        if remembering:
            remembering.logged(folder, piece.name, piece.digest)


def digest_of(*parts: bytes | Path) -> str:
    """SHA-256 over bytes and the content of files, in this order."""
    total = hashlib.sha256()
    for part in parts:
        content = read_bytes(part, text_limit()) if isinstance(part, Path) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()
