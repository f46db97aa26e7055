"""A W&B logger that can neither lose nor stop a run: W&B is a view of the records, never the only copy."""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_adv2.files import write_json
from lightning_adv2.report.wandb_files import FILE, mend, read_state, starts, wait_for
from lightning_adv2.report.wandb_keys import has_key, warn

PROJECT = "lightning_adv2"
SYNC = "lightning-adv2 sync"
CONNECT_SECONDS, FINISH_SECONDS = 30, 60


class RunLogger(WandbLogger):
    """Logs to the one W&B run of a folder, and never raises.

    The first start gives the folder a W&B run id, in ``wandb.json``; every later start continues that run. When
    something goes wrong, one warning says so, and what follows is logged offline under the same id, or not at all where
    that fails too.

    Args:
        folder: of the run; W&B's files go to ``wandb/`` in it.
        project: W&B project, of the first start.
        name: display name, of the first start.
        offline: log to files only.
    """

    _active: RunLogger | None = None

    def __init__(self, folder: Path, project: str, name: str | None, offline: bool) -> None:
        import wandb

        state = read_state(folder)
        if "id" not in state:
            state = {"id": uuid4().hex[:12], "project": project, "name": name or folder.name}
            if _rank() == 0:
                write_json(folder / FILE, state)
        settings = wandb.Settings(
            init_timeout=CONNECT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True, silent=True
        )
        if offline:
            # An explicit mode wins over the environment, of which a failed first attempt leaves a stale copy behind.
            settings.mode = "offline"
        super().__init__(
            state.get("name"), folder, id=state["id"], project=state.get("project", project), offline=offline,
            settings=settings,
        )  # fmt: skip
        del self._wandb_init["anonymous"]  # W&B warns of it, even of None
        self.folder = folder
        self._lock: IO[str] | None = None
        self._failures = 0
        self._reports: dict[Path, str] = {}

    @property
    def experiment(self) -> Any:
        """W&B's run, started at the first use; an object that takes everything and does nothing where that fails."""
        if self._experiment is None and self._failures < 2 and _rank() == 0:
            try:
                self.connect()
            except Exception as error:
                self._fail(error)
        return DummyLogger().experiment if self._experiment is None else self._experiment

    def connect(self) -> None:
        """Start the W&B run now; the only method that raises."""
        if _rank() != 0 or self._experiment is not None:
            return
        other = RunLogger._active
        if other is not None and other is not self:
            other.close()  # Lightning would go on with its W&B run
        self._claim()
        mode = os.environ.get("WANDB_MODE")
        try:
            _ = super().experiment
        finally:
            if mode is None:
                os.environ.pop("WANDB_MODE", None)  # Lightning's, which every later logger would obey
        RunLogger._active = self
        atexit.register(self.close)

    def _claim(self) -> None:
        """Keep other processes off this W&B run, up to the death of this one, and mend what a killed one left."""
        if self._lock is None:
            (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "wandb" / "lock").open("w")
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.close()
                raise RuntimeError(f"another process logs to the W&B run of {self.folder}") from error
            self._lock = lock
        for path in starts(self.folder, self._id or ""):
            mend(path)

    @property
    def offline(self) -> bool:
        """Whether it logs to files only."""
        return bool(self._offline or getattr(self._experiment, "offline", False))

    @property
    def failed(self) -> bool:
        """Whether something went wrong, of which a warning has told."""
        return self._failures > 0

    def attempt(self, act: Callable[[], None]) -> None:
        """Call ``act``, which logs something; after an error once more, offline."""
        while self._failures < 2:
            try:
                return act()
            except Exception as error:
                self._fail(error)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See Lightning; never raises."""
        self.attempt(lambda: super(RunLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """See Lightning; never raises."""
        self.attempt(lambda: super(RunLogger, self).log_hyperparams(params))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Do nothing: checkpoints stay in the run's folder."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Do nothing: the run stays open, for a later ``fit`` or ``test`` of the same process."""

    def reported(self, folder: Path, digest: str) -> None:
        """Remember that a whole report was logged; ``wandb.json`` in ``folder`` says so once W&B has it for certain."""
        self._reports[folder] = digest

    def close(self) -> bool:
        """Finish W&B's run, at the latest when the process ends; False when W&B may lack something."""
        run, self._experiment = self._experiment, None
        atexit.unregister(self.close)
        if RunLogger._active is self:
            RunLogger._active = None
        if run is None:
            return False
        try:
            run.finish()  # returns when all is written or uploaded
            if run.offline:
                wait_for(Path(run.dir).parent)
            for folder, digest in self._reports.items():
                known = {"id": run.id, "project": self._project or PROJECT, "name": run.name}
                write_json(folder / FILE, known | read_state(folder) | {"reported": digest})
        except Exception as error:
            self._fail(error)
            return False
        finally:
            self._unlock()
        self._reports = {}
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._reports = {}
        if self._failures == 1:
            warn(error, f"the run goes on, offline; '{SYNC} {self.folder}' completes W&B's report of an evaluation")
        _tear_down(self)
        self._offline = True
        self._wandb_init["settings"].mode = "offline"


def wandb_logger(
    save_dir: str | Path = ".", project: str = PROJECT, name: str | None = None, offline: bool | None = None
) -> RunLogger:
    """A logger for the W&B run of a folder; see :class:`RunLogger`.

    Args:
        save_dir: folder of the run.
        project: W&B project.
        name: display name of the run; the folder's where it is left out.
        offline: None decides by itself: as ``WANDB_MODE`` says; without it online when a key is set up and the server
            answers, else offline.
    """
    folder = Path(save_dir)
    if offline is None:
        mode = os.environ.get("WANDB_MODE")
        offline = mode in ("offline", "dryrun") or (mode is None and not has_key())
    logger = RunLogger(folder, project, name, offline)
    if not offline:
        try:
            logger.connect()  # a failure must not wait until the first result
        except Exception as error:
            warn(error, f"the run goes on, offline; 'wandb sync {folder}/wandb/offline-run-*' uploads it later")
            _tear_down(logger)
            os.environ.pop("WANDB_API_KEY", None)  # offline too, W&B refuses to start with a malformed one
            return RunLogger(folder, project, name, True)
    return logger


def default_logger(folder: str | Path) -> Logger:
    """W&B in the run's folder; CSV files where wandb is not installed or does not even start."""
    try:
        logger = wandb_logger(folder, name=Path(folder).name)
        logger.connect()
        return logger
    except ModuleNotFoundError:
        pass
    except Exception as error:  # such as a malformed setting in the environment
        warn(error, f"the run goes on with CSV files; '{SYNC} {folder}' logs an evaluation to W&B later")
    return CSVLogger(folder, name="", version="")


def attempt(logger: WandbLogger, act: Callable[[], None]) -> None:
    """Call ``act``, which logs something; an error becomes a warning, with any logger of W&B's."""
    if isinstance(logger, RunLogger):
        return logger.attempt(act)
    try:
        act()
    except Exception as error:
        warn(error, f"the run goes on; '{SYNC} RUN' logs an evaluation later")


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def _tear_down(logger: RunLogger) -> None:
    """Forget a run and a service that failed, which otherwise fail again when the process ends."""
    import wandb

    run, logger._experiment = logger._experiment, None
    for end in (wandb.teardown,) if run is None else (run.finish, wandb.teardown):
        with suppress(Exception, SystemExit):  # teardown exits with the status of a service that was killed
            end()
    wandb.run = None
