"""The offline runs that earlier starts left in a run's folder: found, mended after a kill, read back."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from glob import escape
from pathlib import Path
from typing import Any

from lightning_adv2.files import read_json

FILE = "wandb.json"
MARK = "report/row"
"""Key of the text ``digest/number`` in every row of a report."""
PIECE = "report/piece/"
"""Key, with its name, of the digest of a piece logged beside the report."""

_HEADER, _CHUNK, _BLOCK = 7, 7, 32768  # bytes; the format of LevelDB's log behind a header of W&B's own
_FULL, _LAST = 1, 4


def read_state(folder: Path) -> dict[str, Any]:
    """What is known of a folder's W&B run, from its ``wandb.json``: ``id``, ``project``, ``name``, ``reported``, ...

    ``reported`` is the digest of the report that W&B has for certain; ``pieces`` are those of what is logged beside it,
    by name. A missing or damaged file is an empty answer, and so is one whose ``id`` would be a path.
    """
    try:
        content = read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "/" not in str(content.get("id", "")) else {}


def starts(folder: Path, run_id: str, kind: str = "offline-run") -> list[Path]:
    """The folders that earlier starts left of a W&B run, oldest first; ``kind`` is ``run`` for those online."""
    return sorted((folder / "wandb").glob(f"{kind}-*-{escape(run_id)}*"))  # the second in a second ends in -1


def waiting(folder: Path, run_id: str) -> list[Path]:
    """The offline starts of a W&B run that were not uploaded yet: ``wandb sync`` leaves a mark beside each."""
    return [path for path in starts(folder, run_id) if not list(path.glob("*.synced"))]


def sync_command(folder: Path) -> str:
    """The shell line that logs a folder's evaluation to W&B."""
    return shlex.join(["lightning-adv2", "sync", str(folder)])


def uploads(folder: Path, run_id: str) -> str:
    """The shell line that uploads what is not uploaded yet."""
    return shlex.join(["wandb", "sync", *map(str, waiting(folder, run_id))])


def mend(path: Path) -> None:
    """Cut a killed offline run behind its last whole record; delete it where there is none.

    ``wandb sync`` stops at a cut-off record: it uploads nothing that comes later, and all before it again each time.

    Raises:
        OSError: the folder cannot be written.
    """
    for file in path.glob("*.wandb"):
        whole = _whole_records(file)
        if not whole:
            shutil.rmtree(path)
        elif whole < file.stat().st_size:
            os.truncate(file, whole)


def wait_for(path: Path, seconds: float = 10.0) -> None:
    """Return once an offline run that was finished is on disk: W&B says so a little early.

    Raises:
        TimeoutError: it does not come.
    """
    deadline = time.monotonic() + seconds
    for file in path.glob("*.wandb"):
        while not 0 < _whole_records(file) == file.stat().st_size:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{file} does not get whole within {seconds:.0f} s")
            time.sleep(0.02)


def _whole_records(file: Path) -> int:
    """Where the last whole record ends; 0 for none."""
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


def rows_of(path: Path, digest: str) -> int:
    """How many rows of a report an offline run has; a killed process leaves fewer than it logged.

    Raises:
        RuntimeError: W&B's reader fails.
    """
    return max([row_number(row.get(MARK), digest) for row in _marked(path, MARK)], default=0)


def pieces_of(path: Path) -> dict[str, str]:
    """Digests of the pieces that an offline run has, by name.

    Raises:
        RuntimeError: W&B's reader fails.
    """
    marks = (mark for row in _marked(path, PIECE) for mark in row.items())
    return {key.removeprefix(PIECE): str(value) for key, value in marks if key.startswith(PIECE)}


def _marked(path: Path, mark: str) -> list[dict[str, Any]]:
    """The rows of an offline run with a mark, by W&B's own reader."""
    if not list(path.glob("*.wandb")):
        return []
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{path} cannot be read ({done.stderr.strip()[-300:]}); delete it to have all logged anew")
    records = (json.loads(line) for line in done.stdout.splitlines() if mark in line)
    return [record["history"]["item"] for record in records if record.get("type") == "history"]


def row_number(mark: Any, digest: str) -> int:
    """The number in a row's mark; 0 for another report's."""
    text = str(mark)
    return int(text.rpartition("/")[2]) if text.startswith(f"{digest}/") else 0
