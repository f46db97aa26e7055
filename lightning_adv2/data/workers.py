"""The behaviour of a loader's worker processes at signals."""

from __future__ import annotations

import os
import signal
from threading import Thread

_SHIELDED = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}


def shield(worker_id: int) -> None:
    """Let a worker end when its parent tells it to, and not with its group; for ``worker_init_fn``.

    Schedulers, service managers, ``torchrun`` and terminals (Ctrl-C) signal all processes at once. The parent notes the
    signal, finishes its step and saves; if its workers were gone by then, it would fail instead. SIGTERM is not ignored
    altogether: a parent that exits sends it to its workers, and waits for them.

    Args:
        worker_id: not used.
    """
    # Blocked, they are left to whoever asks for them, with their sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while True:
        told = signal.sigwaitinfo(_SHIELDED)
        if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
            os._exit(0)
