"""Transfer between interpreters (Table 9, Figure 14): does an attack on one interpreter fool the others?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.interpreters.checks import check_module
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import FAINT, STRONG, Column, Table
from lightning_adv2.results.records import BatchRecord, check_name
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.subject import Subject
from lightning_adv2.studies.transfer.figures import iou_of, matrices_of, sides_of, transfer_figure, transfer_maps
from lightning_adv2.studies.transfer.judging import transfer_images, transfer_rows


class TransferEvaluation(Study):
    """Explain attacked images by the interpreters that the attack did not aim at; comes after AttackEvaluation.

    The adversarial images of every attack that aims at the map of one interpreter, ``source``, are explained by each
    other interpreter of the module, for the class that the classifier predicts on them, and compared with that
    interpreter's own benign map. Where it is the source itself, that is what the attack's own table has: its ``l1`` and
    ``iou``, or where the target is not the benign map its ``l1_benign`` and ``iou_benign``. Images count that both
    interpreters can explain. ``figures/transfer_maps.png`` shows one image (Figure 14).

    Args:
        judges: interpreters that are not attacked, and explain all the same: those without a right gradient, such as
            captum's. They are no part of the module, and other judges may look at the same records later. Judges also
            explain the images of the attacks that aim at no map and of the noise control, whose source is ``none``.

    Raises:
        TypeError: a judge is no Interpreter.
        ValueError: two judges share a name.
    """

    name = "transfer"
    title = "Transfer between interpreters"
    position = 30
    columns = (
        Column("source", "aimed at", main=True),
        Column("attack", main=True),
        Column("schedule"),
        Column("interpreter", "explained by", main=True),
        Column("n", "images", ","),
        Column("l1", "map L1", ".3f", main=True),
        Column("iou", "map IoU", ".3f", interval=True, empty="empty", main=True),
    )
    keys = ("source", "attack", "interpreter")
    logged = ("l1", "iou")

    def __init__(self, judges: list[Interpreter] | None = None) -> None:
        self.judges = list(judges or [])
        for judge in self.judges:
            check_module("judges", judge, Interpreter)
            check_name("judges", judge.name)
            judge.requires_grad_(False).eval()
        self._check_names([])
        self._example: Mapping[str, BatchRecord] = {}

    def check(self, subject: Subject) -> None:
        """Check that no judge has an attacked interpreter's name.

        Raises:
            ValueError: one has.
        """
        self._check_names(subject.names)

    def _check_names(self, attacked: Sequence[str]) -> None:
        names = [*attacked, *(judge.name for judge in self.judges)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"judges: {', '.join(twice)} stands for two interpreters; a judge needs a name of its own, which no "
                "attacked interpreter has: set its attribute 'name'"
            )

    def rehearse(self, batch: Any, subject: Subject) -> None:
        """Let the judges explain the first image."""
        for judge in self._judges_on(subject):
            judge.explain(subject.classifier, batch["images"][:1], batch["label"][:1])

    def _judges_on(self, subject: Subject) -> list[Interpreter]:
        """The judges, beside the victim and in its precision."""
        return [judge.to(subject.device, subject.module.dtype) for judge in self.judges]

    def begin(self, subject: Subject) -> None:
        """Forget the earlier loop's records."""
        self._example = {}

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Row]:
        """One row per image, attack and explaining interpreter."""
        self._example = self._example or batch
        judges = self._judges_on(subject)
        return transfer_images(subject.classifier, subject.interpreters, batch, subject.device, judges)

    def summarise(self, observed: Sequence[Row], subject: Subject) -> Findings:
        """Means over images."""
        note = (
            "The map of the attacked image, for the class that is predicted on it, against the benign map of the same "
            "interpreter."
        )
        return Findings(transfer_rows(observed), notes=[note])

    def pictures(self, subject: Subject) -> Mapping[str, Callable[[], Figure | None]]:
        """``transfer_maps.png``: an image of the first batch under every attack on a map, explained by everyone."""
        arguments = subject.interpreters, self._example, subject.class_titles, subject.device
        return {"maps": partial(transfer_maps, subject.classifier, *arguments, self._judges_on(subject))}

    @classmethod
    def tables(cls, findings: Findings) -> list[Table]:
        """All rows; then the IoUs of each attack as a matrix."""
        main = Table(cls.title, cls.columns, findings.rows, findings.notes, emphasis=_emphasis)
        matrices = []
        for attack, matrix in matrices_of(findings.rows).items():
            sources, names = sides_of(matrix)
            columns = [Column("aimed at"), *(Column(f"by {name}", f"by {name}", ".3f") for name in names)]
            rows = [{"aimed at": source} | {f"by {n}": iou_of(matrix.get((source, n))) for n in names}
                    for source in sources]  # fmt: skip
            matrices.append(Table(f"{attack}: map IoU", columns, rows))
        return [main, *matrices]

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """A heat map of the IoU for each attack: the interpreter it aimed at, and the interpreter that explains."""
        return transfer_figure(findings.rows) if findings.rows else None


def _emphasis(row: Row) -> str:
    own = row["source"] == row["interpreter"]
    return STRONG if own else FAINT if row["role"] == "control" else ""
