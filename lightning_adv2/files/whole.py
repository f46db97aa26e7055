"""Write files so that a reader finds the old content or the new, never a part."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

# What a file system answers that does not know fsync, or not for this kind of file; a disk that is full or broken
# answers otherwise.
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
_warned_of: list[Path] = []  # one warning is enough, whatever the folder


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, which replaces ``path`` at the end of the block if no error is raised.

    The temporary file lies in the same folder, because a rename is atomic only within one file system. Its name starts
    with a dot, ends in ``.tmp`` and is used only once: the rest of a killed process is never taken for content. Where
    the file system cannot say when the content is on the disk (``fsync``), a warning says so, once per process.

    Args:
        path: the file; its folder is made where it is missing.

    Raises:
        OSError: the disk is full, the folder cannot be written, or the like; ``path`` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as stream:
            _sync(stream.fileno(), path)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(path.parent)):
            raise  # of another file, which the block read
        message = (
            f"{error.strerror}; the file is not written and what was there before is untouched: "
            "free space or permit writing, then run the same command again"
        )
        raise OSError(error.errno, message, str(path)) from error  # of the subclass that belongs to the number
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        if not _warned_of:
            _warned_of.append(path.parent)
            warnings.warn(
                f"{path.parent}: the file system refuses fsync ({error.strerror}); files are written whole all the "
                "same, but a power failure may cost the last ones",
                stacklevel=4,
            )


def _sync_folder(folder: Path) -> None:
    """So that the rename outlasts a power failure; some network file systems cannot, and then it is theirs to keep."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, all or nothing.

    Raises:
        OSError: see :func:`written_whole`.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a content as JSON, indented by one blank, with a newline at its end, all or nothing.

    Raises:
        OSError: see :func:`written_whole`.
        TypeError: JSON cannot hold the content.
    """
    write_text(path, json.dumps(content, indent=1) + "\n")
