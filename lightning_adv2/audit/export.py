"""``lightning-adv2 export RUN``: the images of a run's records as PNG, without loss. Needs no torch."""

from __future__ import annotations

import csv
import errno
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_adv2.audit.pictures import Layout, Picture
from lightning_adv2.files import written_whole
from lightning_adv2.files.run import AGAIN, find_records, read_arrays, stray_lines
from lightning_adv2.files.sealed import Array

CLASSES_FILE, FILES_FILE = "classes.csv", "files.csv"


def export(folder: Path, output: Path | None = None) -> list[Path]:
    """Write every benign and adversarial image of a run as PNG, for ``ImageFolder`` classes to read; return the files.

    Beside the pictures ``files.csv`` lists for each file its image, interpreter, attack, true class and target class,
    and ``classes.csv`` the folder of each class.

    Args:
        folder: the run's.
        output: the folder of the pictures; None takes ``images`` in ``folder``. See
            :class:`~lightning_adv2.audit.pictures.Layout` for the names below it.

    Returns:
        The pictures, each once.

    Raises:
        FileNotFoundError: there are no records.
        OSError: a picture cannot be written.
        ValueError: a record is damaged, its images are neither grey nor RGB, or ``output`` is so long that no path
            below it is short enough.
    """
    paths, _ = find_records(folder / "records")
    if not paths:
        raise FileNotFoundError(f"{folder}: there are no records in it; give the folder of a finished evaluation")
    output = output or folder / "images"
    layout = Layout(folder, paths)
    written: dict[Path, Picture] = {}
    for path in paths:
        for picture in _pictures(layout, path):
            target = output / picture.path
            if target not in written:
                _write(target, picture.pixels, path)
                written[target] = replace(picture, pixels=np.empty(0, np.uint8))  # a view would keep the record
    _write_csv(
        output / FILES_FILE,
        ("file", "image_id", "interpreter", "attack", "label", "class", "target_class", "target"),
        (
            (one.path, one.image_id, one.interpreter, one.attack, one.label, layout.called(one.label),
             one.target_class, layout.called(one.target_class))
            for one in written.values()
        ),
    )  # fmt: skip
    _write_csv(
        output / CLASSES_FILE,
        ("index", "class", "folder"),
        ((index, name, layout.folder_of(index)) for index, name in enumerate(layout.classes)),
    )
    return list(written)


def _pictures(layout: Layout, path: Path) -> Iterator[Picture]:
    header, arrays = read_arrays(path)
    try:
        yield from layout.pictures(header, arrays)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: its content does not fit together ({error!r}); {AGAIN}") from error


def _write(target: Path, pixels: Array, record: Path) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(f"{record}: images of {pixels.dtype}; PNG takes uint8")
    if pixels.shape[2] not in (1, 3):
        raise ValueError(f"{record}: images of {pixels.shape[2]} channels; PNG takes 1 (grey) or 3 (RGB)")
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    try:
        with written_whole(target) as temporary:
            image.save(temporary, format="PNG")
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"{target}: the path is longer than this system allows; give a shorter --output") from error


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        written_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def main(options: Namespace) -> int:
    """Run ``export`` and return its exit code, 0.

    Args:
        options: of :func:`lightning_adv2.cli.options.export`.

    Raises:
        FileNotFoundError, OSError, ValueError: see :func:`export`.
    """
    written = export(options.run, options.output)
    for line in stray_lines(options.run / "records"):
        print(line)
    output = options.output or options.run / "images"
    print(f"{len(written)} images in {output}, listed in {output / FILES_FILE}")
    others = len({*output.rglob("*.png")} - {*written})
    if others:
        print(
            f"{others} other PNG files lie there, from another run or an earlier version; delete them, or export anew"
        )
    return 0
