"""A W&B logger that can neither lose nor stop a run: W&B is a view of the records, never the only copy."""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_adv2.files import write_json
from lightning_adv2.report.wandb.about import define_curves, run_settings
from lightning_adv2.report.wandb.artifacts import log_weights
from lightning_adv2.report.wandb.files import FILE, mend, read_state, starts, sync_command, wait_for
from lightning_adv2.report.wandb.keys import warn

PROJECT = "lightning_adv2"
STAGING = "WANDB_DATA_DIR"
CONNECT_SECONDS, FINISH_SECONDS = 30, 60


class RunLogger(WandbLogger):
    """Logs to the one W&B run of a folder, and never raises.

    The first start gives the folder a W&B run id, in ``wandb.json``; every later start continues that run. When
    something goes wrong, one warning says so, and what follows is logged offline under the same id, or not at all where
    that fails too.

    Args:
        folder: of the run; W&B's files go to ``wandb/`` in it, also those that W&B stages until an upload, unless
            ``WANDB_DATA_DIR`` says where to.
        project: W&B project, of the first start.
        name: display name, of the first start.
        offline: log to files only.
        group: what belongs together, of the first start; see ``wandb_about.run_settings``.
        job_type: what the run does, of the first start.
        tags: what to filter by.
    """

    _active: RunLogger | None = None

    def __init__(
        self,
        folder: Path,
        project: str,
        name: str | None,
        offline: bool,
        group: str | None = None,
        job_type: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        import wandb

        state = read_state(folder)
        about = run_settings(folder, state, group, job_type, tags)
        if "id" not in state:
            # A sweep's agent waits for the run that it named.
            run_id = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
            state = {"id": run_id or uuid4().hex[:12], "project": project, "name": name or folder.name}
            state |= {key: about[key] for key in ("group", "job_type") if about[key]}
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
            settings=settings, **about,
        )  # fmt: skip
        del self._wandb_init["anonymous"]  # W&B warns of it, even of None
        self.folder = folder
        self._lock: IO[str] | None = None
        self._stages = False
        self._failures = 0
        self._reported: dict[Path, dict[str, Any]] = {}

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
        self.stage()
        mode = os.environ.get("WANDB_MODE")
        try:
            _ = super().experiment
        finally:
            if mode is None:
                os.environ.pop("WANDB_MODE", None)  # Lightning's, which every later logger would obey
        define_curves(self._experiment)
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

    def stage(self) -> None:
        """Let W&B stage its files in the run's folder: an offline run refers to them until it is uploaded.

        By default they lie in the user's home, so that a copy of the folder would lack the pictures of the tables.
        """
        if STAGING not in os.environ:
            os.environ[STAGING], self._stages = str(self.folder.resolve() / "wandb"), True

    def unstage(self) -> None:
        """Leave the environment as it was, for other runs of the process."""
        if self._stages:
            os.environ.pop(STAGING, None)
        self._stages = False

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
        """Log what a ``fit`` has trained; the run stays open, for a later ``fit`` or ``test`` of the same process."""
        if status == "success" and list(self.folder.glob("*.safetensors")):
            self.attempt(lambda: log_weights(self, self.folder))

    def reported(self, folder: Path, digest: str) -> None:
        """Remember that a whole report was logged; ``wandb.json`` in ``folder`` says so once W&B has it for certain."""
        self._reported.setdefault(folder, {})["reported"] = digest

    def logged(self, folder: Path, name: str, digest: str) -> None:
        """The same for a piece beside the report: a study's figure and tables, an artifact."""
        self._reported.setdefault(folder, {}).setdefault("pieces", {})[name] = digest

    def pieces(self, folder: Path) -> dict[str, str]:
        """Digests of the pieces that W&B has, by name."""
        own: dict[str, str] = self._reported.get(folder, {}).get("pieces", {})
        return {**read_state(folder).get("pieces", {}), **own}

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
            for folder, found in self._reported.items():
                known = {"id": run.id, "project": self._project or PROJECT, "name": run.name}
                pieces = {"pieces": self.pieces(folder)} if "pieces" in found else {}
                write_json(folder / FILE, known | read_state(folder) | found | pieces)
        except Exception as error:
            self._fail(error)
            return False
        finally:
            self.unstage()
            self._unlock()
        self._reported = {}
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._reported = {}
        if self._failures == 1:
            command = sync_command(self.folder)
            warn(error, f"the run goes on, offline; complete W&B's report of an evaluation by: {command}")
        tear_down(self)
        self._offline = True
        self._wandb_init["settings"].mode = "offline"


def attempt(logger: WandbLogger, act: Callable[[], None]) -> None:
    """Call ``act``, which logs something; an error becomes a warning, with any logger of W&B's."""
    if isinstance(logger, RunLogger):
        return logger.attempt(act)
    try:
        act()
    except Exception as error:
        warn(error, "the run goes on; 'lightning-adv2 sync RUN' logs an evaluation later")


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def tear_down(logger: RunLogger) -> None:
    """Forget a run and a service that failed, which otherwise fail again when the process ends."""
    import wandb

    run, logger._experiment = logger._experiment, None
    for end in (wandb.teardown,) if run is None else (run.finish, wandb.teardown):
        with suppress(Exception, SystemExit):  # teardown exits with the status of a service that was killed
            end()
    wandb.run = None
    logger.unstage()
