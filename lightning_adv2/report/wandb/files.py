"""What W&B leaves in a run's folder: ``wandb.json``, a lock, and an offline run for each start."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import time
from glob import escape
from pathlib import Path
from typing import IO, Any

from lightning_adv2.files import read_json

FILE = "wandb.json"

_HEADER, _CHUNK, _BLOCK = 7, 7, 32768  # bytes; the format of LevelDB's log behind a header of W&B's own
_FULL, _LAST = 1, 4


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``wandb.json``: ``id``, ``project``, ``name``, ``logged``, ...

    A missing or damaged file gives an empty answer, and so does a file whose ``id`` would be a path.
    """
    try:
        content = read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "/" not in str(content.get("id", "")) else {}


def logged(folder: Path) -> dict[str, str]:
    """The digests of all contents that the folder's W&B run is known to have, by name."""
    found = read_state(folder).get("logged")
    return found if isinstance(found, dict) else {}


def starts(folder: Path, run_id: str) -> list[Path]:
    """The offline runs that the starts of a W&B run left, oldest first."""
    return sorted((folder / "wandb").glob(f"offline-run-*-{escape(run_id)}*"))  # the second in a second ends in -1


def waiting(folder: Path, run_id: str) -> list[Path]:
    """The offline runs that were not uploaded yet: ``wandb sync`` leaves a mark beside each."""
    return [path for path in starts(folder, run_id) if not list(path.glob("*.synced"))]


def sync_command(folder: Path) -> str:
    """The shell line that logs a folder's evaluation to W&B."""
    return shlex.join(["lightning-adv2", "sync", str(folder)])


def upload_command(folder: Path) -> str:
    """The shell line that uploads the offline runs that wait, repaired where a kill cut them; empty if none waits.

    Raises:
        RuntimeError: another process logs to the W&B run.
        OSError: the folder cannot be written.
    """
    run_id = str(read_state(folder).get("id", ""))
    if not run_id or not waiting(folder, run_id):
        return ""
    claim(folder, run_id).close()
    paths = waiting(folder, run_id)
    return shlex.join(["wandb", "sync", *map(str, paths)]) if paths else ""


def claim(folder: Path, run_id: str) -> IO[str]:
    """The lock of a folder's W&B run, open, after the repair of the offline runs that killed processes left.

    ``wandb sync`` (0.31) stops at a record that a kill cut off: it uploads no later start, and the same rows again at
    every call. An offline run is therefore cut behind its last whole record, and deleted if it has none.

    Args:
        folder: of the run.
        run_id: of its W&B run, which this process must not have open.

    Raises:
        RuntimeError: another process holds the lock.
        OSError: the folder cannot be written.
    """
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    lock = (folder / "wandb" / "lock").open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process dies
    except OSError as error:
        lock.close()
        raise RuntimeError(f"another process logs to the W&B run of {folder}") from error
    for file in (file for path in waiting(folder, run_id) for file in path.glob("*.wandb")):
        whole = _whole_records(file)
        if not whole:
            shutil.rmtree(file.parent)
        elif whole < file.stat().st_size:
            os.truncate(file, whole)
    return lock


def wait_for(path: Path, seconds: float = 10.0) -> None:
    """Return when an offline run that was finished is on disk: W&B's ``finish`` returns some milliseconds before.

    Raises:
        TimeoutError: a record is still cut off after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    for file in path.glob("*.wandb"):
        while not 0 < _whole_records(file) == file.stat().st_size:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{file} is still incomplete after {seconds:.0f} s")
            time.sleep(0.02)


def _whole_records(file: Path) -> int:
    """Where the last whole record ends, in bytes; 0 if there is none."""
    offset, whole, size = _HEADER, 0, file.stat().st_size
    with file.open("rb") as stream:
        while True:
            left = _BLOCK - offset % _BLOCK
            offset += left if left < _CHUNK else 0  # a block's last bytes may be too few for a chunk
            stream.seek(offset)
            head = stream.read(_CHUNK)
            if len(head) < _CHUNK or not _FULL <= head[6] <= _LAST:
                return whole
            offset += _CHUNK + int.from_bytes(head[4:6], "little")
            if offset > size:
                return whole
            if head[6] in (_FULL, _LAST):
                whole = offset
