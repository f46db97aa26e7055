"""Read files that others made: only regular ones, and none so large that reading it would end the process."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lightning_adv2.files.strict import parse_json

MAX_GIB = "LIGHTNING_ADV2_MAX_GIB"
_TEXT_GIB, _TENSORS_GIB = 1, 16
_CHUNK = 2**20
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


class Limit(NamedTuple):
    """The largest size of a file that is read.

    Attributes:
        size: in bytes.
        remedy: how a user raises the limit, for the error.
    """

    size: int
    remedy: str


def text_limit() -> Limit:
    """Return the limit of JSON, CSV and text files and of a report's figures: 1 GiB, or ``LIGHTNING_ADV2_MAX_GIB``.

    Raises:
        ValueError: the variable is no whole number of GiB, or is below 1.
    """
    return _limit(_TEXT_GIB)


def tensor_limit() -> Limit:
    """Return the limit of records and weights, which are read whole: 16 GiB, or ``LIGHTNING_ADV2_MAX_GIB``.

    Raises:
        ValueError: the variable is no whole number of GiB, or is below 1.
    """
    return _limit(_TENSORS_GIB)


def _limit(default: int) -> Limit:
    given = os.environ.get(MAX_GIB) or str(default)
    if not given.isdecimal() or not int(given):
        raise ValueError(f"{MAX_GIB}={given!r}: give a whole number of GiB, at least 1")
    return Limit(int(given) * 2**30, f"if it has to be that large, set {MAX_GIB}")


def check_size(size: int, limit: Limit | None, path: str | Path) -> None:
    """Check a size against a limit.

    Args:
        size: in bytes.
        limit: None for no limit.
        path: the file, for the error.

    Raises:
        OSError: the size is above the limit (EFBIG); the error names both, and how to raise the limit.
    """
    if limit is not None and size > limit.size:
        message = f"it has {size:,} bytes, more than the {limit.size:,} that are read; {limit.remedy}"
        raise OSError(errno.EFBIG, message, str(path))


def open_regular(path: str | Path, limit: Limit | None = None) -> io.BufferedReader:
    """Open a regular file for reading in binary, without waiting for the other end of a pipe.

    Args:
        path: links are followed.
        limit: the largest size; None where the file is read piece by piece.

    Raises:
        OSError: the file cannot be opened, is no regular file (a folder, a pipe, a socket, a device), or is too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.ENXIO, "it is a socket or a device and no regular file", str(path)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(number, f"it is {kind} and no regular file", str(path))
        check_size(status.st_size, limit, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, limit: Limit | None) -> bytes:
    """Return the whole content of a regular file; a file that grows beyond the limit meanwhile is refused as well.

    Args:
        path: links are followed.
        limit: the largest size; None for no limit.

    Raises:
        OSError: see :func:`open_regular`.
    """
    parts, size = [], 0
    with open_regular(path, limit) as stream:
        while part := stream.read(_CHUNK):
            parts.append(part)
            size += len(part)
            check_size(size, limit, path)
    return b"".join(parts)


def read_text(path: str | Path) -> str:
    """Return the text of a regular UTF-8 file of at most :func:`text_limit`, without a byte order mark.

    Raises:
        OSError: see :func:`open_regular`.
        ValueError: the file is not UTF-8.
    """
    return read_bytes(path, text_limit()).decode("utf-8-sig")


def open_table(path: str | Path) -> TextIO:
    """Open a regular UTF-8 file of at most :func:`text_limit` as text, with its own line ends, for the csv module.

    Raises:
        OSError: see :func:`open_regular`.
    """
    return io.TextIOWrapper(open_regular(path, text_limit()), encoding="utf-8", newline="")


def read_json(path: str | Path) -> Any:
    """Return the content of a regular JSON file of at most :func:`text_limit`.

    Raises:
        OSError: see :func:`open_regular`.
        ValueError: the file is not UTF-8; or see :func:`~lightning_adv2.files.strict.parse_json`.
    """
    return parse_json(read_text(path))
