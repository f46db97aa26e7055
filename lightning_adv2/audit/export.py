"""``lightning-adv2 export RUN``: the images of a run's records as PNG, without loss. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_adv2.files import written_whole
from lightning_adv2.files.run import pictures, read_arrays, record_paths


def export(folder: Path, output: Path | None = None) -> list[Path]:
    """Write every benign and adversarial image of a run.

    Args:
        folder: the run's.
        output: where to; None takes ``images`` in ``folder``. See :func:`~lightning_adv2.files.run.pictures` for the
            names below it.

    Returns:
        The files, each once.

    Raises:
        FileNotFoundError: there are no records.
        ValueError: a record is damaged, or its images are neither grey nor RGB.
    """
    paths = record_paths(folder / "records")
    if not paths:
        raise FileNotFoundError(f"{folder}: there are no records in it; give the folder of a finished evaluation")
    written: dict[Path, None] = {}
    for path in paths:
        for target, pixels in pictures(output or folder / "images", *read_arrays(path)):
            if target not in written:
                if pixels.shape[2] not in (1, 3):
                    raise ValueError(f"{path}: images of {pixels.shape[2]} channels; PNG takes 1 (grey) or 3 (RGB)")
                image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
                with written_whole(target) as temporary:
                    image.save(temporary, format="PNG")
                written[target] = None
    return list(written)


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lightning-adv2 export", description="Write the images of a run as PNG.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--output", type=Path, help="where to; by default 'images' in the run's folder")
    options = parser.parse_args(words)
    try:
        written = export(options.run, options.output)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{len(written)} images in {options.output or options.run / 'images'}")
    return 0
