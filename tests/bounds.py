"""Files that have no end, and a test that hangs on one or swallows it fails."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SECONDS, BYTES = 30, 3 * 2**30


@pytest.fixture
def bounded() -> Iterator[None]:
    """Within this time, and this much more memory."""

    def hangs(number: int, frame: object) -> None:
        raise AssertionError(f"still waiting after {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    former = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, former[1]))
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, former)
    signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


ENDLESS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": _socket,
}
"""Makes something at a path that is no regular file."""


def replace(path: Path, kind: str) -> Path:
    """Put something that is no regular file in a file's place, or where there is none."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    ENDLESS[kind](path)
    return path


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    """A file of this size that takes hardly any room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
    return path
