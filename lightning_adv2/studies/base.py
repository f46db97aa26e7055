"""A study: a question asked of an evaluation's records or of its benign images, answered by flat rows.

A study says what it observes, how observations become rows, which columns these have, and what its figure shows. All
else is done here: order of the callbacks, processes, interruption, files, scalars, terminal; page and W&B show every
study whose file lies in a run's folder (``report/findings.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from matplotlib.figure import Figure
from pytorch_lightning.trainer.states import TrainerFn

from lightning_adv2.evaluation.attack_evaluation import AttackEvaluation
from lightning_adv2.files.names import check_name
from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.findings import SHOWN, Findings, check_keys, draw_figure, write_findings
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.report.table import Column, Table
from lightning_adv2.report.terminal import show
from lightning_adv2.results.records import record_key
from lightning_adv2.results.summary import Row
from lightning_adv2.runtime.exchange import gathered
from lightning_adv2.runtime.processes import on_rank_zero
from lightning_adv2.runtime.signals import interruption_of
from lightning_adv2.studies.records import batches_of_this_process
from lightning_adv2.studies.subject import Subject


class Study(pl.Callback, ABC):
    """One study of ``validate`` and ``test``; a subclass with a ``name`` registers itself.

    Writes ``<name>.json``, ``<name>.csv`` and ``figures/<name>.png`` into the run's folder, prints a table and logs
    ``{stage}/{log_name}/{keys of the row}/{metric}``. The results are the same for any number of processes, if
    ``summarise`` does not depend on the order of the observations.

    Attributes:
        name: of the files and the log keys.
        title: heading of the section and the table.
        columns: of the main table.
        position: of the section on the page, smaller numbers first.
        keys: which values of a row name its scalars, in this order; ``attack`` stands for attack and schedule.
        logged: which values of a row are logged as scalars.
        log_name: second part of the log key; empty takes ``name``.
        reads: ``records`` observes the records of every finished batch, ``batches`` every batch of the loop, ``files``
            nothing: the study overrides :meth:`conclude`.
        needs: callbacks that must stand before the study in the trainer's list.
        uses: callbacks that must not stand behind it.
        during_fit: whether the study also works in the validations of ``fit``.
        findings: of the last loop; None before.
        subject: what the current loop studies.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    columns: ClassVar[Sequence[Column]]
    position: ClassVar[int] = 100
    keys: ClassVar[Sequence[str]] = ("attack", "interpreter")
    logged: ClassVar[Sequence[str]] = ()
    log_name: ClassVar[str] = ""
    reads: ClassVar[Literal["records", "batches", "files"]] = "records"
    needs: ClassVar[Sequence[type[pl.Callback]]] = (AttackEvaluation,)
    uses: ClassVar[Sequence[type[pl.Callback]]] = ()
    during_fit: ClassVar[bool] = False

    findings: Findings | None = None
    subject: Subject
    _observed: Sequence[Any] = ()
    _complete = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        check_name("name", cls.name)
        known = SHOWN.get(cls.name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"name={cls.name!r}: {known.__qualname__} is the study of that name; give another name")
        SHOWN[cls.name] = cls

    def check(self, subject: Subject) -> None:
        """Raise an error, before hours of attack, where the study cannot be made of what the loop will leave."""

    def rehearse(self, batch: Any, subject: Subject) -> None:
        """See the first batch before it is attacked: what networks refuse comes up at once."""

    def begin(self, subject: Subject) -> None:
        """Prepare for observations: before the first batch, of records before the first record is read."""

    def observe(self, batch: Any, subject: Subject) -> Sequence[Any]:
        """What the study sees in one batch, on the process that has the batch.

        Args:
            batch: by interpreter the record of a finished batch, where the study reads ``records``; a batch of the
                loop with its ``batch_index``, where it reads ``batches``.
            subject: the networks, and what is known of the run.

        Returns:
            Observations that pickle, small enough for every process to hold all of them.
        """
        return ()

    @abstractmethod
    def summarise(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """The rows, from the observations of all processes; the same in whatever order these come."""

    def conclude(self, observed: Sequence[Any], subject: Subject) -> Findings:
        """The findings, on all processes: gathers the observations and summarises them.

        Args:
            observed: on this process.
            subject: see :meth:`observe`.
        """
        return self.summarise([one for process in gathered(subject.trainer, observed) for one in process], subject)

    def pictures(self, subject: Subject) -> Mapping[str, Callable[[], Figure | None]]:
        """Figures that take the networks or the observations, drawn once on one process: name -> what draws it.

        The name ``""`` stands for the main figure, ``figures/<name>.png``, ``maps`` for ``figures/<name>_maps.png``.
        """
        return {}

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """The tables of terminal and page, the main one first."""
        return [Table(cls.title, cls.columns, findings.rows, findings.notes)]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """The main figure, from the findings alone: bars of what is logged, by interpreter and attack."""
        known = {column.key: replace(column, format=column.format or ".3f") for column in cls.columns}
        metrics = [Metric(known.get(key) or Column(key, format=".3f")) for key in cls.logged]
        rows = [row for row in findings.rows if any(row.get(key) is not None for key in cls.logged)]
        if not rows or not {"interpreter", "attack", "schedule"} <= rows[0].keys():
            return None
        return grouped_bars(rows, metrics, cls.title)

    @property
    def rows(self) -> list[Row]:
        """The rows of the last loop; none before."""
        return self.findings.rows if self.findings else []

    def scalars(self, stage: str) -> dict[str, float]:
        """What is logged of the findings, by log key.

        Raises:
            ValueError: no row has one of ``keys``.
        """
        values: dict[str, float] = {}
        if self.rows and self.logged:
            check_keys(self.name, "keys", self.keys, list(self.rows[0]))
        for row in self.rows:
            parts = [stage, self.log_name or self.name]
            for key in self.keys:
                told = record_key(row["attack"], row["schedule"]) if key == "attack" and "schedule" in row else row[key]
                parts += [str(told)] if told is not None else []
            values |= {"/".join([*parts, key]): float(row[key]) for key in self.logged if row.get(key) is not None}
        return values

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check order and subject, and start afresh."""
        if not self._works(trainer):
            return
        self._check_order(trainer)
        self.findings, self._observed, self._complete = None, [], False
        self.subject = Subject.of(trainer, pl_module)
        self.check(self.subject)
        if self.reads == "batches":
            self.begin(self.subject)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Rehearse with the first batch."""
        if self._works(trainer) and not batch_idx and len(batch["images"]):
            self.rehearse(batch, self.subject)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Observe the batch, where the study reads batches."""
        if self.reads == "batches" and self._works(trainer) and len(batch["images"]):
            index = int(batch.get("batch_index", batch_idx * trainer.world_size + trainer.global_rank))
            self._observed = [*self._observed, *self.observe(batch | {"batch_index": index}, self.subject)]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Conclude on all processes; write, draw and print on one; log."""
        if not self._works(trainer):
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        with nullcontext() if fitting else interruption_of(trainer).leaving(trainer):
            if self.reads == "records" and not self._complete:
                _read_records(trainer)
            findings = self.findings = self.conclude(self._observed, self.subject)
            on_rank_zero(trainer, lambda: self._show(findings))
            self._observed = []
        pl_module.log_dict(self.scalars(self.subject.stage), rank_zero_only=not fitting)

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _works(self, trainer: pl.Trainer) -> bool:
        return not trainer.sanity_checking and (self.during_fit or trainer.state.fn != TrainerFn.FITTING)

    def _check_order(self, trainer: pl.Trainer) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        own = callbacks.index(self)
        for kind in self.needs:
            if not any(isinstance(callback, kind) for callback in callbacks[:own]):
                raise ValueError(
                    f"callbacks: {type(self).__name__} reads what {kind.__name__} writes; list it after that one"
                )
        for callback in callbacks[own:]:
            if isinstance(callback, tuple(self.uses)):
                raise ValueError(
                    f"callbacks: {type(callback).__name__} comes after {type(self).__name__}, which reads what it "
                    "writes; list it before that one"
                )

    def _show(self, findings: Findings) -> bool:
        folder, study = self.subject.folder, type(self)
        write_findings(folder, study, findings)
        drawn = dict(self.pictures(self.subject))
        if "" not in drawn:
            draw_figure(folder, study, findings)
        for name, make in drawn.items():
            draw(folder / "figures" / f"{'_'.join(filter(None, [self.name, name]))}.png", make, SAME)
        with harmless(f"the table of {folder / self.name}.json"):
            for table in self.tables(findings):
                show(table)
        return True


def _read_records(trainer: pl.Trainer) -> None:
    """Let all studies that read records observe every record at once, so that each file is read and checked once."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    studies = [one for one in callbacks if isinstance(one, Study) and one.reads == "records" and one._works(trainer)]
    for study in studies:
        study.begin(study.subject)
    observed: dict[int, list[Any]] = {id(study): [] for study in studies}
    for records in batches_of_this_process(trainer):
        for study in studies:
            observed[id(study)] += study.observe(records, study.subject)
    for study in studies:
        study._observed, study._complete = observed[id(study)], True
