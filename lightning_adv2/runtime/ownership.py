"""A run's folder has one owner at a time: a process that is alive."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from pytorch_lightning.utilities import rank_zero_info

from lightning_adv2.files import open_regular, read_json
from lightning_adv2.runtime.early import WATCH

FILE = "run.lock"
BEAT_SECONDS = 10.0
"""The time between two renewals of the lock by its owner."""
PATIENCE_SECONDS = 60.0
"""The time for which a process on another machine watches a lock without renewal before it takes the folder over."""

_HELD: dict[Path, int] = {}  # folder -> the thread of this process that owns it


class FolderInUseError(RuntimeError):
    """Another process is at work in the folder."""


@contextmanager
def owned(folder: str | Path) -> Iterator[None]:
    """Own a folder inside the block, by a lock ``run.lock`` that names the owner and is removed at the end.

    The lock is made by a hard link, which is atomic on network file systems as well. The lock of a dead owner is taken
    over: on the same machine at once, where the owner's process is gone or its number belongs to a later process; from
    another machine when nobody has renewed the lock for ``PATIENCE_SECONDS``, by this process's clock, so that the
    clocks of the machines may differ.

    Args:
        folder: of the run; made where it is missing.

    Raises:
        FolderInUseError: another process owns the folder; the error says which one, since when, and what to do.
        OSError: the folder cannot be written.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _about_this_process()
    while not _placed(path, mine):
        _wait_for_death(path)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, mine, ended), name="run.lock", daemon=True)
    beats.start()
    _HELD[path.parent.resolve()] = threading.get_ident()
    release = partial(_release, path, mine)
    WATCH.releases.append(release)
    try:
        yield
    finally:
        WATCH.releases.remove(release)
        _HELD.pop(path.parent.resolve(), None)
        ended.set()
        beats.join()
        release()


def is_owned(folder: str | Path) -> bool:
    """Return whether this thread is inside a block of :func:`owned` for the folder."""
    return _HELD.get(Path(folder).resolve()) == threading.get_ident()


def _about_this_process() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "process": os.getpid(),
        "block": uuid4().hex,
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
        **({"job": job} if job else {}),
    }


def _machine() -> str:
    """The range within which a process number names one process: this boot of this host, this namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


def _started(process: int) -> str | None:
    """When a process started, in ticks since the boot; empty where the system does not say; None if it is dead."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _placed(path: Path, mine: dict[str, Any]) -> bool:
    """Put the lock there, whole and at once, unless there is one."""
    draft = path.with_name(f".{FILE}.{uuid4().hex}.tmp")
    try:
        draft.write_text(json.dumps(mine), encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            return _read(path) == mine  # over NFS the answer to a successful link may be lost
        except OSError:  # no hard links: the content comes after the file, and is judged by its age until then
            try:
                with path.open("x", encoding="utf-8") as stream:
                    stream.write(json.dumps(mine))
            except FileExistsError:
                return False
        return True
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Who has the lock; empty if the file does not tell, None if there is no lock."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _wait_for_death(path: Path) -> None:
    """Remove the lock if its owner is dead.

    Raises:
        FolderInUseError: it is alive.
    """
    owner = _read(path)
    if owner is None:
        return
    if owner.get("machine") == _machine() and isinstance(owner.get("process"), int):
        if _started(owner["process"]) == owner.get("started"):
            raise FolderInUseError(_message(path, owner))
    else:
        seen, end = _renewed(path), time.monotonic() + PATIENCE_SECONDS
        rank_zero_info(f"{path} is of {_who(owner)}; looking for {PATIENCE_SECONDS:.0f} s whether it is still at work")
        while time.monotonic() < end:
            time.sleep(min(1.0, PATIENCE_SECONDS / 10))
            if _renewed(path) != seen:
                if _read(path) is None:
                    return
                raise FolderInUseError(_message(path, owner))
    _remove(path, owner)
    rank_zero_info(f"{path.parent} was left by {_who(owner)}, which is gone; this run takes it over")


def _renewed(path: Path) -> float | None:
    try:
        with open_regular(path) as stream:  # opening it makes a network file system look anew
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return None


def _remove(path: Path, owner: dict[str, Any]) -> None:
    """Take away this owner's lock and no other's: somebody else may have been quicker."""
    aside = path.with_name(f".{FILE}.{uuid4().hex}.tmp")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != owner:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _release(path: Path, mine: dict[str, Any]) -> None:
    if _read(path) == mine:
        path.unlink(missing_ok=True)


def _beat(path: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            if _read(path) == mine:
                os.utime(path)


def _who(owner: dict[str, Any]) -> str:
    if not {"host", "process", "since"} <= owner.keys():
        return "an unknown process"
    job = f" (SLURM job {owner['job']})" if "job" in owner else ""
    return f"process {owner['process']} on {owner['host']}{job}, since {owner['since']}"


def _message(path: Path, owner: dict[str, Any]) -> str:
    said = f": {owner['command']}" if owner.get("command") else ""
    return (
        f"{path.parent} is in use by {_who(owner)}{said}\nWait until it has ended, end it, or take another folder "
        f"(--trainer.default_root_dir). If you are sure that it is gone: rm {shlex.quote(str(path))}"
    )
