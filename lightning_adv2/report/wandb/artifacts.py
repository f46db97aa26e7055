"""Artifacts: the weights that a ``fit`` left, and an evaluation's records with all that was made of them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info

from lightning_adv2.files import open_regular
from lightning_adv2.files.run import record_paths
from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.report.wandb.files import FILE
from lightning_adv2.report.wandb.pieces import Piece, digest_of, log_pieces

MAX_BYTES = 2**28
"""Records or weights larger than this, in bytes, are linked to where they lie and not uploaded."""


def log_weights(logger: WandbLogger, folder: Path) -> None:
    """Log every ``*.safetensors`` in a run's folder as an artifact of type ``model``, each content once. May raise."""
    log_pieces(logger, folder, [_weights(path, folder) for path in sorted(folder.glob("*.safetensors"))])


def _weights(path: Path, folder: Path) -> Piece:
    with open_regular(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()

    def row(experiment: Any) -> dict[str, Any]:
        model = experiment.config.get("model")
        facts = {
            "sha256": digest,
            "bytes": path.stat().st_size,
            "step": experiment.summary.get("trainer/global_step"),
            "module": model.get("class_path") if isinstance(model, dict) else None,
        }
        _log(experiment, path.stem, "model", facts, _frozen(folder, digest, [path]), [path])
        return {}

    return Piece(f"model/{path.stem}", digest, row)


def evaluation(folder: Path, digest: str) -> Piece:
    """An artifact of type ``evaluation``: records, tables, stamp, page and figures.

    Args:
        folder: of the run.
        digest: of its report. When and where it ran, which the stamp says, makes no new artifact.
    """
    small = sorted(
        path
        for path in [
            *folder.glob("*.json"),
            *folder.glob("*.csv"),
            *folder.glob("*.html"),
            *folder.glob("figures/**/*"),
            folder / SUMS,
        ]
        if path.is_file() and path.name != FILE
    )
    config = folder / "config.yaml"
    small += [config] if config.is_file() else []
    measured = [path for path in small if path.suffix in (".json", ".csv") and path.name != "stamp.json"]
    total = digest_of(digest.encode(), *(part for path in measured for part in (path.name.encode(), path)))

    def row(experiment: Any) -> dict[str, Any]:
        records = [*record_paths(folder / "records"), *sorted((folder / "records").glob("experiment*.json"))]
        facts = {"report": digest, "records": len(records), "bytes": sum(path.stat().st_size for path in records)}
        _log(experiment, "evaluation", "evaluation", facts, _frozen(folder, total, small), records)
        return {}

    return Piece("evaluation", total, row)


def _frozen(folder: Path, digest: str, paths: list[Path]) -> Path:
    """A copy in the run's own ``wandb/`` of files that a later run may write anew: an upload may come much later."""
    place = folder / "wandb" / "artifacts" / digest[:16]
    for path in paths:
        target = place / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if path.suffix == ".safetensors":  # these are replaced, never written into
            try:
                os.link(path, target)
                continue
            except OSError:  # a file system without hard links
                pass
        shutil.copyfile(path, target)
    return place


def _log(experiment: Any, name: str, kind: str, facts: dict[str, Any], frozen: Path, large: list[Path]) -> None:
    """Log what lies in ``frozen``, and ``large`` files beside it, by reference where they are too large."""
    import wandb

    size = sum(path.stat().st_size for path in large)
    linked = size > MAX_BYTES
    about = None
    if linked:
        about = f"{size / 2**20:.0f} MiB are linked, not uploaded: they lie in {large[0].parent.resolve()}"
        rank_zero_info(f"W&B artifact {name}: {about}")
    artifact = wandb.Artifact(f"{re.sub('[^A-Za-z0-9_.-]', '-', name)}-{experiment.id}", kind, about, facts)
    root = frozen.parents[2]
    for path in large:
        place = str(path.relative_to(root))
        if linked:
            artifact.add_reference(path.resolve().as_uri(), name=place)
        elif not (frozen / place).exists():
            # Never written again, so that no copy has to be kept until the upload.
            artifact.add_file(str(path.resolve()), name=place, policy="immutable", skip_cache=True)
    for path in sorted(frozen.rglob("*")):
        place = str(path.relative_to(frozen))
        if path.is_file() and place not in artifact.manifest.entries:
            artifact.add_file(str(path.resolve()), name=place, policy="immutable", skip_cache=True)
    experiment.log_artifact(artifact)
