"""Processes for tests: a function of a test module, on one process or several, or what Python is asked to do.

A fresh Python needs five seconds of a core for torch, Lightning and W&B, and two to take them apart. So a server, which
the first call starts, has imported them, and each process is forked from there, into a session, a folder and an
environment of its own. At its end threads are waited for and exit handlers run, but modules are not taken apart.

What needs a Python of its own takes ``run_fresh_python`` and ``call``: libraries that read the environment when they
load, signals during imports, a look at what is imported or at the end of Python, a terminal.
"""

from __future__ import annotations

import atexit
import base64
import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

IMPORTED = ("pytest", "hypothesis", "matplotlib.pyplot", "lightning_adv2.cli", "lightning_adv2.studies", "lab")
"""By the server. None of these may start a thread: a thread does not survive a fork."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([*IMPORTED, "frozen"])
_started: list[Spawned] = []


def run(function: Callable[..., Any], *args: Any, folder: Path, processes: int = 1, timeout: float = 240,
        **variables: object) -> list[Any]:  # fmt: skip
    """What the function returns on each process.

    Args:
        function: of a module that can be imported; its trainer has so many devices.
        args: are pickled.
        folder: where it runs.
        processes: how many; Lightning starts all but the first.
        timeout: in seconds.
        variables: of the environment.

    Raises:
        AssertionError: it fails or does not end in time; shows what it said.
    """
    process = start(function, *args, folder=folder, processes=processes, **variables)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not in {timeout} s: {process}") from None
    assert code == 0, process
    return [process.value(rank) for rank in range(processes)]


def start(function: Callable[..., Any], *args: Any, folder: Path, processes: int = 1, **variables: object) -> Spawned:
    """Start that, and do not wait."""
    return Spawned(call(function, *args), folder, processes, environment(folder, **variables))


def run_python(*words: object, folder: Path, processes: int = 1, timeout: float = 240, **variables: object) -> Spawned:
    """Do in ``folder`` what Python does of these words: ``-m`` and a module, ``-c`` and code, or a script."""
    process = start_python(*words, folder=folder, processes=processes, **variables)
    process.wait(timeout)
    return process


def start_python(*words: object, folder: Path, processes: int = 1, **variables: object) -> Spawned:
    """Start that, and do not wait."""
    return Spawned([*map(str, words)], folder, processes, environment(folder, **variables))


def run_fresh_python(
    *words: object, folder: Path, timeout: float = 240, **variables: object
) -> subprocess.CompletedProcess[str]:
    """The same by a Python of its own, which has imported nothing."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment(folder, **variables),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def call(function: Callable[..., Any], *args: Any) -> list[str]:
    """The words after ``python`` that call a function of a test module."""
    content = pickle.dumps((sys.path, pickle.dumps((function, args))))
    return [__file__, base64.b85encode(content).decode()]


def end_all() -> None:
    """End what a test has left running."""
    while _started:
        _started.pop().kill()


def environment(folder: Path, **more: object) -> dict[str, str]:
    """This process's variables for another one, in which W&B finds nobody's key; with None as its value one goes."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "COV_"))}
    own = wandb_environment(folder / "wandb_home") | {"OMP_NUM_THREADS": "1"}
    return {name: str(value) for name, value in (inherited | own | more).items() if value is not None}


def wandb_environment(folder: Path) -> dict[str, str]:
    """Variables under which W&B finds no key and writes nothing outside ``folder``."""
    names = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "HOME")
    for name in names:
        (folder / name.lower()).mkdir(parents=True, exist_ok=True)
    return {name: str(folder / name.lower()) for name in names} | {"NETRC": str(folder / "no-netrc")}


class Spawned:
    """A started process, or the first one of several; what ``subprocess.Popen`` is to a program.

    Attributes:
        pid: its number, and that of its session and its group.
    """

    def __init__(self, words: list[str], folder: Path, processes: int, variables: dict[str, str]) -> None:
        self._place = Path(tempfile.mkdtemp(dir=os.environ["LAB"]))
        self._process = _server.Process(target=_forked, args=(words, self._place, folder, processes, variables))
        # The server's own, of which a process keeps nothing.
        with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}):
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        _started.append(self)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.exitcode

    @property
    def stdout(self) -> str:
        """What all processes have printed by now."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """What all processes have printed on standard error by now."""
        return self._text("stderr")

    def value(self, rank: int = 0) -> Any:
        """What the function returned."""
        return pickle.loads((self._place / f"value-{rank}").read_bytes())

    def poll(self) -> int | None:
        """The return code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The return code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on after so many seconds; at the end of the test it is killed.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0, self.stdout, self.stderr)
        return self.returncode

    def says(self, text: str, timeout: float = 120) -> None:
        """Return when it has printed this."""
        end = time.monotonic() + timeout
        while text not in self.stdout:
            assert self.poll() is None, f"it has ended without {text!r}: {self}"
            assert time.monotonic() < end, f"not in {timeout} s: {text!r}: {self}"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it and all of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self.wait(60)

    def _text(self, name: str) -> str:
        path = self._place / name
        return path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else ""

    def __str__(self) -> str:
        return f"returned {self.returncode}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"


def _forked(words: list[str], place: Path, folder: Path, processes: int, variables: dict[str, str]) -> None:
    """What a process of the server does."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # it is found anew, by the variables
    os.chdir(folder)
    if (wandb := sys.modules.get("wandb.sdk.data_types._private")) is not None:
        wandb.MEDIA_TMP.__init__("wandb-media")  # a folder of its own: the end of another fork removes the server's
    words = _spares(processes - 1) or words
    try:
        value = _do(words)
        (place / f"value-{os.environ.get('LOCAL_RANK', 0)}").write_bytes(pickle.dumps(value))
    finally:
        atexit._run_exitfuncs()


def _spares(count: int) -> list[str] | None:
    """Fork what Lightning will start, while nothing has happened yet; in a fork returns what it is then to do."""
    for _ in range(count):
        ours, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            for file in (theirs, *_Spare.waiting.values()):
                os.close(file)
            with os.fdopen(ours, "rb") as stream:
                content = stream.read()
            if not content:
                os._exit(0)  # the first process has ended and needed no other
            words, variables = pickle.loads(content)
            os.environ.clear()
            os.environ.update(variables)
            return list(words[1:])
        os.close(ours)
        _Spare.waiting[pid] = theirs
    if count:
        from pytorch_lightning.strategies.launchers import subprocess_script

        subprocess_script.subprocess = SimpleNamespace(Popen=_Spare)  # type: ignore[assignment]
    return None


class _Spare(subprocess.Popen[bytes]):
    """What Lightning starts a Python with; in place of a new one a fork begins, a child of the same process."""

    waiting: ClassVar[dict[int, int]] = {}

    def _execute_child(self, words: list[str], *rest: Any) -> None:  # type: ignore[override]
        assert words[0] == sys.executable
        self.pid, theirs = self.waiting.popitem()
        self._child_created = True
        with os.fdopen(theirs, "wb") as stream:
            pickle.dump((words, rest[5]), stream)


def _do(words: list[str]) -> Any:
    """Do what Python does of these words; what the function returned where they are of :func:`call`."""
    first, *rest = words
    sys.argv = words
    if first == __file__:
        sys.path[:], content = pickle.loads(base64.b85decode(rest[0]))
        function, args = pickle.loads(content)
        return function(*args)
    if first == "-m":
        sys.argv = rest
        return runpy.run_module(rest[0], run_name="__main__", alter_sys=True) and None
    if first == "-c":
        sys.argv, sys.modules["__main__"] = ["-c", *rest[1:]], ModuleType("__main__")
        return exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    sys.path.insert(0, str(Path(first).resolve().parent))
    return runpy.run_path(first, run_name="__main__") and None


if __name__ == "__main__":
    _do(sys.argv)
