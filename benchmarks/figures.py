"""``python -m benchmarks.figures``: the figures of ``docs/`` that no run draws by itself.

``aid_tradeoff`` comes from ``results/aid_settings.json``. ``aid`` needs a run of
``configs/evaluate/cifar10_aid.yaml`` and shows the image whose map IoU lies nearest to the means of the attacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.tables import read
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.report.figures import Cell, grid, overlay, save
from lightning_adv2.results.records import AttackRecord, BatchRecord, to_numpy
from lightning_adv2.results.run import read_run

DOCS = Path(__file__).parents[1] / "docs"
TITLES = {"pgd": "PGD", "adv2": "ADV2", "adv2_long": "ADV2 restarts", "stadv-adv2": "StAdv-ADV2"}


def aid_tradeoff() -> Figure:
    """Map IoU under ADV2 against the L1 between the benign maps of RTS-A and RTS, for the trainings of AID."""
    figure = Figure((6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    styles = {"none": ("*", "black"), "3": ("s", "#d1495b"), "2": ("o", "#808080"), "weight": ("^", "#30638e")}
    names = {"none": "RTS", "3": "RTS-A, 3 attack steps", "2": "RTS-A, 2 attack steps",
             "weight": "RTS-A, 2 attack steps, agreement_weight 8"}  # fmt: skip
    shown = dict.fromkeys(names, 0)
    for row in read("aid_settings")["rows"]:
        kind = "weight" if "weight" in row["training"] else row["training"].split()[0]
        marker, colour = styles[kind]
        label = None if shown[kind] else names[kind]
        shown[kind] += 1
        axis.scatter(row["L1, c"], row["IoU"], marker=marker, color=colour, s=70, label=label, zorder=3)
        if row["steps"]:
            place = {832: (-52, 4), 520: (8, -12)}.get(row["steps"], (7, 5))
            point = row["L1, c"], row["IoU"]
            axis.annotate(f"{row['steps']:,} steps", point, place, textcoords="offset points", fontsize=8)
    axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axis.axvline(0.05, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlim=(-0.005, 0.125), ylim=(0, 1.02), xlabel="L1 between the benign maps of RTS-A and RTS")
    axis.set_ylabel("map IoU under ADV2, 100 steps")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def aid(run: Path) -> Figure:
    """One image under RTS and RTS-A: the benign map, then the map under each attack."""
    records: dict[str, list[BatchRecord]] = {"rts": [], "rts_a": []}
    for record in read_run(run).records():
        if record.interpreter in records and record.image_id:
            records[record.interpreter].append(record)
    rts, rts_a = (_together(records[name]) for name in records)
    both = [name for name in rts if name in rts_a]
    scores = {name: (_ious(*rts[name]), _ious(*rts_a[name])) for name in both}
    means = [torch.stack([scores[name][i] for name in both]).nanmean(0) for i in (0, 1)]
    typical = min(both, key=lambda name: sum(float((scores[name][i] - means[i]).abs().mean()) for i in (0, 1)))
    classes = read_run(run).about["classes"]
    rows = [_row(title, *found[typical], classes) for title, found in (("RTS", rts), ("RTS-A", rts_a))]
    return grid(rows, "The same image under RTS and RTS-A")


Place = tuple[BatchRecord, int]


def _together(records: Sequence[BatchRecord]) -> dict[str, Place]:
    return {name: (record, i) for record in records for i, name in enumerate(record.image_id)}


def _attacks(record: BatchRecord) -> list[AttackRecord]:
    return [a for name in TITLES for a in record.attacks if a.attack == name and a.schedule == "fast"]


def _ious(record: BatchRecord, i: int) -> torch.Tensor:
    return torch.cat([map_iou(a.adv_map[i : i + 1], record.target_map[i : i + 1]) for a in _attacks(record)])


def _row(title: str, record: BatchRecord, i: int, classes: Sequence[str]) -> list[Cell]:
    benign = classes[int(record.label[i])]
    cells: list[Cell] = [
        (to_numpy(record.images[i]), f"benign: {benign}", "black"),
        (overlay(record.images[i], record.benign_map[i]), f"{title}, benign", "black"),
    ]
    for attack, iou in zip(_attacks(record), _ious(record, i).tolist(), strict=True):
        picture = overlay(attack.adv_images[i], attack.adv_map[i])
        cells.append((picture, f"{TITLES[attack.attack]}, IoU {iou:.2f}", "#2a7f3f" if iou > 0.5 else "#d1495b"))
    return cells


def main() -> None:
    """Draw the figures asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--aid", type=Path, metavar="RUN", help="a run of configs/evaluate/cifar10_aid.yaml")
    run = parser.parse_args().aid
    print(save(aid_tradeoff(), DOCS / "aid_tradeoff.png"))
    if run is not None:
        print(save(aid(run), DOCS / "aid.png"))


if __name__ == "__main__":
    main()
