"""The prediction-interpretation gap (section 5.2): maps that show what the attacker wants, whatever the image shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_adv2.files import write_json
from lightning_adv2.functional.agreement import compare_maps
from lightning_adv2.functional.bootstrap import bootstrap_interval
from lightning_adv2.report.harmless import draw
from lightning_adv2.report.terminal import show
from lightning_adv2.results.means import OVER, defined, iou_label, mean_of, over
from lightning_adv2.results.records import AttackRecord, BatchRecord, record_key
from lightning_adv2.results.summary import Row

METRICS = ("asr", "confidence", "l1", "iou")
_COLOURS = {"benign": "#b0b0b0", "pgd": "#d1495b", "adv2": "#00798c", "noise": "#d9d9d9", "target_class": "#edae49"}
_MORE_COLOURS = ("#66a182", "#6a4c93", "#8d5524", "#30638e")


def gap_rows(records: Iterable[BatchRecord]) -> list[Row]:
    """How far maps are from the target map: of the benign image, which is the level of chance, and under each attack.

    Args:
        records: of a run, in any order.

    Returns:
        One row per interpreter and attack, ``benign`` first: ``interpreter``, ``target``, ``attack``, ``schedule``,
        ``n``, ``empty`` (of these, those without an IoU because both maps are empty), ``asr``, ``confidence`` (both
        None for ``benign``, which nobody attacked), ``l1`` and ``iou`` with the target map, and ``iou_low`` and
        ``iou_high``, a 95% interval by bootstrap over images. None over no image; an image that comes twice counts
        once.
    """
    heads: dict[tuple[int, int], Row] = {}
    found: dict[tuple[int, int], dict[str, tuple[tuple[int, int], tuple[float | None, ...]]]] = {}
    for record in records:
        head: Row = {"interpreter": record.interpreter, "target": record.target}
        cells: list[tuple[str, str, Tensor, AttackRecord | None]] = [("benign", "benign", record.benign_map, None)]
        cells += [(attack.attack, attack.schedule, attack.adv_map, attack) for attack in record.attacks]
        for place, (name, schedule, shown, attack) in enumerate(cells):
            key = (record.place, place)
            heads.setdefault(key, {**head, "attack": name, "schedule": schedule})
            l1, iou = (values.tolist() for values in compare_maps(shown, record.target_map))
            for i, image_id in enumerate(record.image_id):
                if attack is not None and not bool(attack.valid[i]):
                    continue
                hit = None if attack is None else float(attack.adv_predicted[i] == record.target_class[i])
                confidence = None if attack is None else float(attack.confidence[i])
                one = ((record.batch_index, i), (hit, confidence, l1[i], iou[i]))
                own = found.setdefault(key, {})
                own[image_id] = min(own.get(image_id, one), one, key=lambda seen: seen[0])  # its first place counts
    rows: list[Row] = []
    for key in sorted(heads):
        values = [measured for _, measured in sorted(found.get(key, {}).values(), key=lambda seen: seen[0])]
        row = heads[key] | {"n": len(values)}
        for name, column in zip(METRICS, zip(*values, strict=True) if values else [()] * len(METRICS), strict=True):
            row[name] = mean_of(column)
        ious = defined(one[3] for one in values)
        row["empty"] = len(values) - len(ious)
        row["iou_low"], row["iou_high"] = bootstrap_interval(ious) if ious else (None, None)
        rows.append(row)
    return rows


def write_gap(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``gap.json`` (rows) and, if there are images, ``figures/gap.png``."""
    write_json(folder / "gap.json", {"rows": list(rows)})
    draw_gap(folder, rows)


def draw_gap(folder: Path, rows: Sequence[Row]) -> None:
    """Draw ``figures/gap.png``, if there are images."""
    any_shown = any(row["iou"] is not None and row["attack"] != "noise" for row in rows)
    draw(folder / "figures" / "gap.png", lambda: gap_figure(rows) if any_shown else None)


def gap_figure(rows: Sequence[Row]) -> Figure:
    """Bars per interpreter: IoU with the target map, of the benign image, under PGD, under ADV2 and so on."""
    shown = [row for row in rows if row["iou"] is not None and row["attack"] != "noise"]
    interpreters = list(dict.fromkeys(row["interpreter"] for row in shown))
    labels = list(dict.fromkeys((row["attack"], row["schedule"]) for row in shown))
    width, more = 0.8 / len(labels), iter(_MORE_COLOURS * len(labels))
    figure = Figure((max(5.0, 1.4 + 0.5 * len(interpreters) * (len(labels) + 1)), 3.8), layout="constrained")
    figure.suptitle(f"Map IoU with the target map: {shown[0]['target']}", fontsize=12, fontweight="bold")
    axis = figure.subplots()
    for j, label in enumerate(labels):
        own = {row["interpreter"]: row for row in shown if (row["attack"], row["schedule"]) == label}
        places = [i for i, name in enumerate(interpreters) if name in own]
        drawn = [own[interpreters[i]] for i in places]
        high = [row["iou"] for row in drawn]
        spread = [[row["iou"] - row["iou_low"] for row in drawn], [row["iou_high"] - row["iou"] for row in drawn]]
        bars = axis.bar(
            [i + (j - (len(labels) - 1) / 2) * width for i in places], high, width * 0.92,
            yerr=[[max(0.0, value) for value in side] for side in spread], error_kw={"linewidth": 0.8},
            color=_COLOURS.get(label[0]) or next(more), label=_named(*label),
        )  # fmt: skip
        axis.bar_label(bars, [iou_label(row) for row in drawn], fontsize=7, padding=1)
    axis.set_xticks(range(len(interpreters)), [name.upper() for name in interpreters])
    axis.set_ylabel("map IoU")
    axis.set_ylim(0, 1.1)
    axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(4, len(labels)), fontsize=8, frameon=False)
    return figure


def _named(attack: str, schedule: str) -> str:
    return {"benign": "benign image", "target_class": "benign image, asked for c_t"}.get(
        attack, record_key(attack, schedule)
    )


def print_gap(rows: Sequence[Row], console: Console | None = None) -> None:
    """One line per interpreter and attack in the terminal."""
    title = f"Maps against the target map: {rows[0]['target'] if rows else 'no records'}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for heading in ("interpreter", "attack"):
        table.add_column(heading)
    for heading in ("images", "ASR", "MC", "map L1", "map IoU", "95%"):
        table.add_column(heading, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row["interpreter"]):
            table.add_section()
        previous = row["interpreter"]
        key = row["attack"] if row["attack"] == "benign" else record_key(row["attack"], row["schedule"])
        cells = ["-" if row[name] is None else f"{row[name]:.3f}" for name in METRICS]
        cells[-1] = over(cells[-1], row["n"] - row.get("empty", 0), row["n"])  # older files do not count them
        interval = f"{row['iou_low']:.3f} to {row['iou_high']:.3f}" if row["iou"] is not None else "-"
        table.add_row(row["interpreter"], key, str(row["n"]), *cells, interval)
    show(Group(table, *[Text(OVER, style="dim")] * any(row.get("empty") for row in rows)), console)
