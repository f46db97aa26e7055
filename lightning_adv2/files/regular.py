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
    """How large a file may be.

    Attributes:
        size: in bytes.
        remedy: how a user raises it.
    """

    size: int
    remedy: str


def text_limit() -> Limit:
    """Of JSON, CSV and text files, and of a report's figures: 1 GiB, or as ``LIGHTNING_ADV2_MAX_GIB`` says."""
    return _limit(_TEXT_GIB)


def tensor_limit() -> Limit:
    """Of records, which are read whole: 16 GiB, or as ``LIGHTNING_ADV2_MAX_GIB`` says."""
    return _limit(_TENSORS_GIB)


def _limit(default: int) -> Limit:
    given = os.environ.get(MAX_GIB) or str(default)
    if not given.isdecimal() or not int(given):
        raise ValueError(f"{MAX_GIB}={given!r}: give a whole number of GiB, at least 1")
    return Limit(int(given) * 2**30, f"if it has to be that large, set {MAX_GIB}")


def check_size(size: int, limit: Limit | None, path: str | Path) -> None:
    """Raise an OSError (EFBIG) that names the size, the limit and how to raise it, if a file is larger."""
    if limit is not None and size > limit.size:
        message = f"it has {size:,} bytes, more than the {limit.size:,} that are read; {limit.remedy}"
        raise OSError(errno.EFBIG, message, str(path))


def open_regular(path: str | Path, limit: Limit | None = None) -> io.BufferedReader:
    """The file, open for reading; never waits for a pipe's other end.

    Args:
        path: links are followed.
        limit: how large it may be; None where it is read piece by piece.

    Raises:
        OSError: it cannot be opened, is no regular file (a folder, a pipe, a socket, a device), or is too large.
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
    """The whole content of a regular file; one that grows beyond the limit meanwhile is refused as well.

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
    """The text of a regular UTF-8 file of at most :func:`text_limit`, without a byte order mark.

    Raises:
        OSError: see :func:`open_regular`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path, text_limit()).decode("utf-8-sig")


def open_table(path: str | Path) -> TextIO:
    """A regular UTF-8 file of at most :func:`text_limit`, for the csv module to read.

    Raises:
        OSError: see :func:`open_regular`.
    """
    return io.TextIOWrapper(open_regular(path, text_limit()), encoding="utf-8", newline="")


def read_json(path: str | Path) -> Any:
    """The content of a regular JSON file of at most :func:`text_limit`.

    Raises:
        OSError: see :func:`open_regular`.
        ValueError: it is not UTF-8; or see :func:`~lightning_adv2.files.strict.parse_json`.
    """
    return parse_json(read_text(path))
