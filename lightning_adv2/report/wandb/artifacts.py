"""Artifacts of W&B: the weights of a ``fit``, and all files of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lightning_adv2.files.sums import FILE as SUMS
from lightning_adv2.files.sums import left_files

MAX_BYTES = 2**28
"""Records or weights larger than this, in bytes, are linked to where they lie and not uploaded."""


def log_weights(experiment: Any, path: Path, sha256: str) -> None:
    """Log a weights file as an artifact of type ``model``, named after the file. May raise.

    Args:
        experiment: W&B's run.
        path: in the run's folder.
        sha256: of the file.
    """
    model = experiment.config.get("model")
    facts = {
        "sha256": sha256,
        "bytes": path.stat().st_size,
        "step": experiment.summary.get("trainer/global_step"),
        "module": model.get("class_path") if isinstance(model, dict) else None,
    }
    _log(experiment, path.stem, "model", facts, path.parent, [path])


def log_evaluation(experiment: Any, folder: Path) -> None:
    """Log an evaluation as an artifact of type ``evaluation``: records, tables, stamp, page, figures. May raise.

    Args:
        experiment: W&B's run.
        folder: of the evaluation.
    """
    files = [*left_files(folder), *folder.glob(SUMS)]
    records = [path for path in files if folder / "records" in path.parents]
    others = [path for path in files if folder / "records" not in path.parents]
    facts = {"records": len(records), "bytes": sum(path.stat().st_size for path in records)}
    _log(experiment, "evaluation", "evaluation", facts, folder, records, others)


def _log(
    experiment: Any, name: str, kind: str, facts: dict[str, Any], folder: Path, large: Sequence[Path],
    small: Sequence[Path] = (),
) -> None:  # fmt: skip
    """Log files of a folder; ``large`` ones by reference if all of them exceed ``MAX_BYTES``.

    W&B copies the files into its staging folder, because a later start may write them anew before the upload. Records
    are never written again and are not copied.
    """
    import wandb

    size, about = sum(path.stat().st_size for path in large), None
    if size > MAX_BYTES:
        about = f"{size / 2**20:.0f} MiB are linked, not uploaded: they lie in {large[0].parent.resolve()}"
        rank_zero_info(f"W&B artifact {name}: {about}")
    artifact = wandb.Artifact(f"{re.sub('[^A-Za-z0-9_.-]', '-', name)}-{experiment.id}", kind, about, facts)
    linked = set(large) if about else set()
    for path in (*large, *small):
        place, record = path.relative_to(folder).as_posix(), folder / "records" in path.parents
        if path in linked:
            artifact.add_reference(path.resolve().as_uri(), name=place)
        else:
            artifact.add_file(str(path.resolve()), place, policy="immutable" if record else "mutable", skip_cache=True)
    experiment.log_artifact(artifact)
