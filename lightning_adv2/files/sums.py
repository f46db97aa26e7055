"""``SHA256SUMS`` of every file of an evaluation, for ``sha256sum -c`` and ``verify``. Needs no torch.

``verify`` counts tables again from the records, but draws no figures; the sums show a change of any file. They are
written last, and so also show that a run has come to its end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_adv2.files.regular import open_regular, read_text
from lightning_adv2.files.run import AGAIN, find_records
from lightning_adv2.files.whole import write_text

FILE = "SHA256SUMS"
_OTHERS = ("wandb.json", "benign_quality.json")
"""Files that others write, before or after an evaluation."""


def left_files(folder: Path) -> list[Path]:
    """Return the files of an evaluation: tables, studies, page, figures, records and ``experiment.json``, sorted.

    Files of W&B, exported images, and files in ``records`` that are none of the run's do not count.

    Args:
        folder: the run's.
    """
    patterns = ("*.json", "*.csv", "*.html", "config.yaml", "figures/**/*.png", "records/experiment*.json")
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.name not in _OTHERS}
    found |= {*find_records(folder / "records").records}
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def write_sums(folder: Path) -> Path:
    """Write ``SHA256SUMS`` of an evaluation's files, and return its path; no file may be written into the folder later.

    Args:
        folder: the run's.

    Raises:
        OSError: a file cannot be read; or see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    lines = {path.relative_to(folder).as_posix(): file_sha256(path) for path in left_files(folder)}
    return _write(folder, lines)


def renew_sums(folder: Path, *paths: Path) -> None:
    """Replace the sums of files that were rightly written later, such as a page of the same run.

    Args:
        folder: the run's. Where it has no sums, the run has not come to its end, and none are written.
        paths: the files; files outside the folder do not count.

    Raises:
        OSError: a file cannot be read; or see :func:`~lightning_adv2.files.whole.written_whole`.
    """
    own = {path.resolve().relative_to(folder.resolve()).as_posix(): path for path in paths if _below(path, folder)}
    try:
        lines = dict(_read(folder))
    except (OSError, ValueError):
        return
    _write(folder, dict(sorted((lines | {name: file_sha256(path) for name, path in own.items()}).items())))


def _below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, 64 hexadecimal digits.

    Raises:
        OSError: see :func:`~lightning_adv2.files.regular.open_regular`.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wrong_sums(folder: Path) -> tuple[list[str], int]:
    """Return a sentence for each file that has changed since the sums were written, and the number of files with a sum.

    Args:
        folder: the run's.

    Raises:
        FileNotFoundError: there is no ``SHA256SUMS``.
        ValueError: a line of it is no sum.
    """
    found, lines = [], list(_read(folder))
    for name, digest in lines:
        try:
            if file_sha256(folder / name) != digest:
                found.append(f"{folder / name}: it is not what the run wrote: its SHA-256 is another than in {FILE}")
        except FileNotFoundError:
            found.append(f"{folder / name}: it is missing, and is listed in {FILE}; {AGAIN}")
        except OSError as error:
            found.append(f"{folder / name}: it cannot be read ({error})")
    known = {name for name, _ in lines}
    for path in left_files(folder):
        if path.relative_to(folder).as_posix() not in known:
            found.append(f"{path}: the run did not write it: {FILE} does not have it")
    return found, len(lines)


def _write(folder: Path, lines: dict[str, str]) -> Path:
    write_text(folder / FILE, "".join(f"{digest}  {name}\n" for name, digest in lines.items()))
    return folder / FILE


def _read(folder: Path) -> Iterator[tuple[str, str]]:
    names = set()
    for line in read_text(folder / FILE).splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  ([^/\\].*)", line)
        if found is None or ".." in Path(found[2]).parts or found[2] in names:
            raise ValueError(f"{folder / FILE}: the line {line[:100]!r} is no sum of a file of its own")
        names.add(found[2])
        yield found[2], found[1]
