"""Signals from the first moment of a process until its run hears them (:mod:`lightning_adv2.runtime.signals`).

Before its first batch a run loses nothing when it ends, so a signal ends it: SIGTERM and Ctrl-C at once, SIGUSR1 in a
job of SLURM when the configuration has said whether the job is queued again. The first process prints one line.

A thread ends the process. The main thread may be inside a library that waits for another process or for a server, where
Python hears no signal, and an exception that is raised during an import may be lost.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # not typing's, whose import takes as long as all before it
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STARTER = "LIGHTNING_ADV2_STARTER"
"""Names the process that started this one as a part of its run."""
GRACE_SECONDS = 1.0
"""The wait of a process before it ends, so that the others hear the same signal before they miss this process."""
_LOOK_SECONDS = 1.0


class Watch:
    """The signals of a process from :meth:`start` to :meth:`hand_over`; each of them ends the process.

    Attributes:
        watching: whether signals end the process now.
        received: the signals that came, first to last.
        end_others: ends the processes that this one has started, and returns when they are gone.
        releases: called at the end, such as to give back the run's folder.
    """

    def __init__(self) -> None:
        self.watching = False
        self.received: list[int] = []
        self.end_others: Callable[[], None] = _nothing
        self.releases: list[Callable[[], None]] = []
        self._starter = 0
        self._requeues: bool | None = None
        self._waiting = False
        self._former: dict[int, Any] = {}

    def start(self) -> None:
        """Listen; called first of all, in the main thread of a process that does one run."""
        self._starter = starter()
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background jobs
                self._former[number] = signal.signal(number, self._note)
        from threading import Lock, Thread  # signals are kept from here on

        self.watching, self._lock = True, Lock()
        os.register_at_fork(after_in_child=self._leave)
        Thread(target=self._look, args=(read,), name="signals", daemon=True).start()

    def decide(self, requeues: bool) -> None:
        """Set whether SIGUSR1 puts the job back into SLURM's queue, and end the process if SIGUSR1 has come already.

        Args:
            requeues: whether it does.
        """
        if self.watching:
            with self._lock:
                self._requeues = requeues
                if self._waiting:
                    self._end(signal.SIGUSR1)

    def hand_over(self) -> dict[int, Any]:
        """Leave signals to the run, and return the handlers to put back at its end.

        Signals that have come are in ``received``.

        Returns:
            Signal -> former handler. SIGUSR1 stays without effect after the run, because it asks to save.
        """
        if not self.watching:
            return {}
        with self._lock:  # held for good by a thread that ends the process
            self._leave()
            os.close(self._pipe)  # which the thread sees
        return self._former | {signal.SIGUSR1: self._note}

    def hold(self) -> None:
        """Return unless a signal is about to end the process; an error then means that other processes have ended."""
        if self.watching:
            with self._lock:
                pass

    def _leave(self) -> None:
        self.watching = False
        signal.set_wakeup_fd(-1)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def _look(self, pipe: int) -> None:
        from select import select

        while True:
            ready, _, _ = select([pipe], [], [], _LOOK_SECONDS if self._starter else None)
            with self._lock:
                if not self.watching:
                    os.close(pipe)
                    return
                number = os.read(pipe, 1)[0] if ready else 0
                if number == signal.SIGUSR1 and self._requeues is None and "SLURM_JOB_ID" in os.environ:
                    self._waiting = True
                elif number in SIGNALS:
                    self._end(number)
                elif self._starter and os.getppid() != self._starter:
                    os._exit(0)  # the run is gone

    def _end(self, number: int) -> NoReturn:
        from lightning_adv2.runtime.rank import is_first

        first = is_first()
        try:
            if self._starter:
                os.kill(self._starter, number)
            self.end_others()
            if first:
                print(farewell(number, "the run stopped during its set-up", *self._requeued(number)), flush=True)
            if _has_peers():
                from time import sleep

                sleep(GRACE_SECONDS)
            for release in self.releases:
                release()
        except Exception as error:
            os.write(2, f"{signal.Signals(number).name}: {error!r}\n".encode())
        finally:
            os._exit(128 + number if first else 0)  # as Interruption.stop

    def _requeued(self, number: int) -> tuple[bool, str]:
        if number != signal.SIGUSR1 or not self._requeues:
            return False, ""
        from lightning_adv2.runtime.slurm import requeue_job

        return requeue_job()


def farewell(number: int, saved: str, queued: bool, failure: str = "") -> str:
    """Return the line with which a run ends after a signal.

    Args:
        number: of the signal.
        saved: what is saved, in words.
        queued: whether SLURM has the job in its queue again.
        failure: why it has not, where the run asked for it.
    """
    how = "the job is queued again" if queued else failure or "run the same command again to go on"
    return f"\n{signal.Signals(number).name}: {saved}; {how}"


def starter() -> int:
    """Return the number of the process that started this one as a part of its run; 0 where a user or a launcher did."""
    started = os.environ.get("LOCAL_RANK", "0") not in ("", "0")
    return int(os.environ.get(STARTER, 0)) if started else 0


def _has_peers() -> bool:
    """Return whether a launcher started several processes, which all get the same signal."""
    world_size = os.environ.get("WORLD_SIZE") if os.environ.get("RANK") else os.environ.get("SLURM_STEP_NUM_TASKS")
    return int(world_size or 1) > 1


def _nothing() -> None: ...


WATCH = Watch()
"""The process's own."""
