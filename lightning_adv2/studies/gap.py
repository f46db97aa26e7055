"""The prediction-interpretation gap (section 5.2): can the attacker choose the map, whatever the image shows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.report.bars import Metric, attack_label, grouped_bars
from lightning_adv2.report.findings import Findings
from lightning_adv2.report.table import Column
from lightning_adv2.results.records import BENIGN, BatchRecord
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.base import Study
from lightning_adv2.studies.rows import attack_heads, image_rows, mean_rows
from lightning_adv2.studies.subject import Subject


class GapEvaluation(Study):
    """Agreement with a target map that has nothing to do with the image (section 5.2).

    Compares with the target map the map of the benign image, which is the level of chance, and the map under each
    attack. Comes after AttackEvaluation, whose ``target`` must not be the benign map.
    """

    name = "gap"
    title = "Agreement with the target map"
    position = 60
    columns = (
        Column("interpreter"),
        Column("attack"),
        Column("schedule"),
        Column("n", "images", ","),
        Column("asr", "ASR", ".1%"),
        Column("confidence", "confidence", ".3f"),
        Column("l1", "map L1", ".3f"),
        Column("iou", "map IoU", ".3f", interval=True, empty="empty"),
    )
    logged = ("l1", "iou")

    def check(self, subject: Subject) -> None:
        """Check that the attack aims at a map of another origin.

        Raises:
            ValueError: AttackEvaluation aims at the benign map.
        """
        if subject.evaluation.target.name == BENIGN:
            raise ValueError(
                "target: AttackEvaluation aims at the benign map, with which the benign image agrees as it is; "
                "GapEvaluation needs a target such as attacks.RandomPatch or attacks.RandomClass"
            )

    def observe(self, batch: Mapping[str, BatchRecord], subject: Subject) -> list[Row]:
        """One row per image, benign and under each attack."""
        return [row for record in batch.values() for row in gap_images(record)]

    def summarise(self, observed: Sequence[Row], subject: Subject) -> Findings:
        """Means over images."""
        return Findings(gap_rows(observed))

    @classmethod
    def figure(cls, findings: Findings) -> Figure | None:
        """Bars of the IoU with the target map: of the benign image, and under each attack but the noise control."""
        rows = [row for row in findings.rows if row["iou"] is not None and not _is_noise(row)]
        if not rows:
            return None
        title = f"Map IoU with the target map: {rows[0]['target']}"
        return grouped_bars(rows, [Metric(Column("iou", "map IoU", ".2f"), 1.1, 0.5)], title, series=_label)


def gap_images(record: BatchRecord) -> list[Row]:
    """For :func:`gap_rows`: each valid image under each attack, and before them, as attack ``benign``, each image."""
    names = {"interpreter": record.interpreter, "attack": BENIGN, "schedule": BENIGN}
    kind, target = {"role": "control", "threat_model": "none"}, {"target": record.target}
    l1, iou = (values.tolist() for values in compare_maps(record.benign_map, record.target_map))
    every = range(len(record.image_id))
    none: list[float | None] = [None] * len(every)
    values: dict[str, list[float | None]] = {"asr": none, "confidence": none, "l1": l1, "iou": iou}
    rows = image_rows({"order": (record.place, -1), **names, **kind, **target}, record, every, values)
    for head, attack in attack_heads(record):
        keep = attack.valid.nonzero()[:, 0].tolist()
        l1, iou = (found.tolist() for found in compare_maps(attack.adv_map[keep], record.target_map[keep]))
        hit = (attack.adv_predicted == record.target_class)[keep].double().tolist()
        values = {"asr": hit, "confidence": attack.confidence[keep].tolist(), "l1": l1, "iou": iou}
        rows += image_rows(head | target, record, keep, values)
    return rows


def gap_rows(images: Sequence[Row]) -> list[Row]:
    """One row per interpreter and attack, ``benign`` first: means of ASR, confidence, map L1 and map IoU.

    ``asr`` and ``confidence`` of ``benign`` are None. See :func:`~lightning_adv2.studies.rows.mean_rows`.
    """
    keys = ("interpreter", "target", "attack", "schedule", "role", "threat_model")
    return mean_rows(images, keys, ("asr", "confidence", "l1", "iou"), intervals=("iou",))


def _is_noise(row: Row) -> bool:
    return bool(row["role"] == "control" and row["threat_model"] != "none")


def _label(row: Row) -> str:
    if row["schedule"] == BENIGN:
        return "benign image"
    return "benign image, asked for c_t" if row["role"] == "control" else attack_label(row)
