"""A W&B logger that can neither lose nor stop a run: an evaluation is logged from its files, which stay complete."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_adv2.files import write_json
from lightning_adv2.files.sums import file_sha256
from lightning_adv2.report.wandb.about import define_curves, run_settings
from lightning_adv2.report.wandb.artifacts import log_weights
from lightning_adv2.report.wandb.files import FILE, claim, logged, read_state, sync_command, wait_for
from lightning_adv2.report.wandb.keys import warn
from lightning_adv2.report.wandb.pending import Pending, Unstarted

PROJECT = "lightning_adv2"
VALUES = "values"
"""Name, in ``logged`` of ``wandb.json``, of the values that the loops of an evaluation logged."""
STAGING = "WANDB_DATA_DIR"
CONNECT_SECONDS, FINISH_SECONDS = 30, 60


class RunLogger(WandbLogger):
    """Logs to the one W&B run of a folder; never raises.

    W&B's run starts with the first values. Hyper-parameters wait for them, so that a run that is refused, because its
    folder is another experiment's, changes nothing of the folder's W&B run. The first start gives the folder a W&B run
    id, in ``wandb.json``; every later start continues that run. After an error, of which one warning tells, values are
    logged offline under the same id, or not at all if that fails too.

    Args:
        folder: of the run; its ``wandb/`` takes W&B's files, also those that W&B stages until an upload, unless
            ``WANDB_DATA_DIR`` names another folder.
        project: W&B project, of the first start.
        name: display name, of the first start.
        offline: log to files only.
        group: name that related runs share, of the first start; see ``about.run_settings``.
        job_type: kind of the run, of the first start.
        tags: words to filter by.
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
        self._logged: dict[str, str] = {}
        self._pending, self._started, self._holds = Pending(), False, False

    @property
    def experiment(self) -> Any:
        """W&B's run, started when an attribute of it is first used."""
        return Unstarted(self.connected) if self._experiment is None else self._experiment

    def connected(self) -> Any:
        """Start the W&B run and return it; if it cannot be started, an object whose methods do nothing."""
        if self._experiment is None and self._failures < 2 and _rank() == 0:
            try:
                self.connect()
            except Exception as error:
                self._fail(error)
        return DummyLogger().experiment if self._experiment is None else self._experiment

    def reserve(self) -> None:
        """Lock the folder's W&B run for this process, and let W&B read its settings, without starting; may raise.

        Raises:
            RuntimeError: another process logs to the W&B run.
            Exception: W&B cannot start at all, such as with a malformed setting in the environment.
        """
        import wandb

        if _rank() == 0:
            self._lock = self._lock or claim(self.folder, self._id or "")
            wandb.setup()

    def connect(self) -> None:
        """Start the W&B run now; may raise."""
        if _rank() != 0 or self._experiment is not None:
            return
        close_active()  # Lightning would go on with that W&B run
        self._lock = self._lock or claim(self.folder, self._id or "")
        if STAGING not in os.environ:
            # An offline run refers to staged files until it is uploaded; in the user's home, where they lie by default,
            # a copy of the folder would lack the pictures of the tables.
            os.environ[STAGING], self._stages = str(self.folder.resolve() / "wandb"), True
        mode = os.environ.get("WANDB_MODE")
        try:
            _ = super().experiment
        finally:
            if mode is None:
                os.environ.pop("WANDB_MODE", None)  # Lightning's, which every later logger would obey
        define_curves(self._experiment)
        RunLogger._active = self
        atexit.register(self.close)

    @property
    def offline(self) -> bool:
        """Whether it logs to files only."""
        return bool(self._offline or getattr(self._experiment, "offline", False))

    def attempt(self, act: Callable[[], None]) -> None:
        """Call ``act``, which logs values by :meth:`start` or :meth:`once`; after an error once more, offline."""
        while self._failures < 2:
            try:
                return act()
            except Exception as error:
                self._fail(error)

    def start(self) -> None:
        """Start the W&B run and log what waits for it; may raise."""
        self.connect()
        self._started, self._holds = True, False
        self._pending.log()

    def hold(self) -> None:
        """Let values wait until :meth:`settle`, or until something else is logged."""
        self._holds = not self._started

    def settle(self) -> None:
        """Log the values that wait, unless an earlier run has logged the same; never raises."""
        digest = self._pending.digest
        if digest is not None:
            self.attempt(lambda: self.once(VALUES, digest, lambda: None))
        self._pending.clear()
        self._holds = False

    def once(self, name: str, digest: str, act: Callable[[], None]) -> None:
        """Start the W&B run and call ``act``, unless ``wandb.json`` has this digest; may raise.

        ``wandb.json`` takes the digest when the W&B run is closed and all is written or uploaded. After an earlier kill
        ``act`` is called once more.

        Args:
            name: of the content that is logged.
            digest: of the content.
            act: logs the content.
        """
        if (logged(self.folder) | self._logged).get(name) != digest:
            self.start()
            act()
            self._logged[name] = digest

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See Lightning; never raises."""
        self._pending.note(metrics)
        self._log(partial(super().log_metrics, dict(metrics), step), now=not self._holds)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """See Lightning; waits for the first values; never raises."""
        self._log(partial(super().log_hyperparams, params), now=self._started)

    def _log(self, act: Callable[[], None], now: bool) -> None:
        if self._failures < 2:  # else nothing is logged any more
            self._pending.acts.append(act)
        if now:
            self.attempt(self.start)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Do nothing: checkpoints stay in the run's folder."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log what waits, and the weights that a ``fit`` left; the run stays open, for a later loop of the process."""
        if status == "success" and self._pending.acts and not self._holds:
            self.attempt(self.start)
        if status == "success" and list(self.folder.glob("*.safetensors")):
            self.attempt(self._log_weights)

    def _log_weights(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")):
            self._log_network(path, file_sha256(path))

    def _log_network(self, path: Path, digest: str) -> None:
        self.once(f"model/{path.stem}", digest, lambda: log_weights(self._experiment, path, digest))

    def close(self) -> bool:
        """Finish W&B's run, at the latest when the process ends; False if W&B may lack values."""
        lacks = bool(self._failures or self._pending.acts)
        run, self._experiment = self._experiment, None
        atexit.unregister(self.close)
        if RunLogger._active is self:
            RunLogger._active = None
        self._pending, self._started, self._holds = Pending(), False, False
        if run is None:
            self._leave()
            return not lacks
        try:
            run.finish()  # returns when all is written or uploaded
            if run.offline:
                wait_for(Path(run.dir).parent)
            if self._logged and not getattr(run, "disabled", False):
                write_json(self.folder / FILE, read_state(self.folder) | {"logged": logged(self.folder) | self._logged})
        except Exception as error:
            self._fail(error)
            return False
        finally:
            self._leave()
        self._logged = {}
        return True

    def tear_down(self) -> None:
        """Forget a run and a service that failed, which otherwise fail again when the process ends."""
        import wandb

        run, self._experiment = self._experiment, None
        for end in (wandb.teardown,) if run is None else (run.finish, wandb.teardown):
            with suppress(Exception, SystemExit):  # teardown exits with the status of a service that was killed
                end()
        wandb.run = None
        self._leave()

    def _leave(self) -> None:
        """Leave folder and environment to other runs."""
        if self._stages:
            os.environ.pop(STAGING, None)
        self._stages = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._logged = {}
        if self._failures == 1:
            command = sync_command(self.folder)
            warn(error, f"the run goes on, offline; complete W&B's report of an evaluation by: {command}")
        self.tear_down()
        self._offline = True
        self._wandb_init["settings"].mode = "offline"


def hold(logger: Any) -> None:
    """Let the values of an evaluation wait until :func:`settle`; see :meth:`RunLogger.hold`."""
    if isinstance(logger, RunLogger):
        logger.hold()


def settle(logger: Any) -> None:
    """Log the values of an evaluation that wait, unless the W&B run has them; see :meth:`RunLogger.settle`."""
    if isinstance(logger, RunLogger):
        logger.settle()


def attempt(logger: WandbLogger, act: Callable[[], None]) -> None:
    """Call ``act``, which logs values to any logger of W&B; an error becomes a warning."""
    if isinstance(logger, RunLogger):
        return logger.attempt(act)
    try:
        act()
    except Exception as error:
        warn(error, "the run goes on; 'lightning-adv2 sync RUN' logs an evaluation later")


def close_active() -> None:
    """Close the logger that this process has open."""
    if RunLogger._active is not None:
        RunLogger._active.close()


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))
