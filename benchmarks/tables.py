"""``python -m benchmarks.tables``: the tables of ``benchmarks/README.md`` from the files in ``results/``.

A test compares the page with these tables; after a new measurement, paste what this prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def read(name: str) -> Any:
    """The content of ``results/<name>.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(*rows: Sequence[str], right: Sequence[int] = ()) -> str:
    """A Markdown table; the first row is its head, ``right`` are the columns that stand to the right."""
    head, *body = rows
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |".replace("  ", " ") for row in [head, rule, *body]) + "\n"


def _of_cases(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """What is measured -> case -> row."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["what"], {})[row["case"].partition(",")[0]] = row
    return found


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    return (
        "1" if row["what"] == row["floor"] else f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    )


def steps() -> str:
    """Milliseconds and ratios of a step."""
    rows = [["", "ResNet-20: ms", "ratio", "ResNet-50: ms", "ratio"]]
    for what, cases in _of_cases(read("steps_cpu")["rows"]).items():
        small, large = cases["ResNet-20"], cases["ResNet-50"]
        rows.append([what, f"{small['ms']:.2f}", _ratio(small), f"{large['ms']:.0f}", _ratio(large)])
    return table(*rows, right=(1, 3))


def drift() -> str:
    """The last steps of a long attack against its first."""
    rows = [row for row in read("drift_cpu")["rows"] if "last 50" in row["what"]]
    named = [(row["what"].partition(", paper")[0], f"{row['ms']:.2f}", f"{row['ratio']:.2f}") for row in rows]
    return table(("", "ms", "ratio"), *named, right=(1, 2))


def maps() -> str:
    """Ratios of a map to its passes."""
    rows = [["", "floor", "ResNet-20", "ResNet-50"]]
    for what, cases in _of_cases(read("maps_cpu")["rows"]).items():
        small, large = cases.get("ResNet-20"), cases.get("ResNet-50")
        floor = (small or large or {})["floor"]
        if what != floor:
            rows.append([what, floor, _ratio(small), _ratio(large)])
    return table(*rows)


def quality() -> str:
    """IoU and ASR against evaluations."""
    head = ("", "schedule", "evaluations", "s per image", "ASR", "IoU", "L1")
    measured = read("quality_cpu")["rows"]
    order = list(dict.fromkeys(row["case"] for row in measured))
    rows = []
    for row in sorted(measured, key=lambda row: order.index(row["case"])):
        cost = f"{row['evaluations']:,.0f}", f"{row['seconds']:.2f}"
        reached = f"{row['ASR']:.0%}", f"{row['IoU']:.3f}", f"{row['L1']:.3f}"
        rows.append((row["case"], row["schedule"].replace("plateau", "early stopping"), *cost, *reached))
    return table(head, *rows, right=range(2, 7))


def attacks() -> str:
    """IoU and L1 of PGD, ADV2 and the controls; the schedule ``paper`` is that of :func:`quality`."""
    found = {(row["interpreter"], row["attack"]): row for row in read("cifar10_fast")["rows"]}
    paper = {row["case"]: row for row in read("quality_cpu")["rows"] if row["schedule"] == "paper"}
    rows = []
    for name in ("cam", "grad", "rts"):
        controls = [f"{found[name, control]['iou']:.3f}" for control in ("noise", "target_class")]
        pgd, adv2, published = found[name, "pgd"], found[name, "adv2"], paper[name.upper()]
        both = f"{published['IoU']:.3f} / {published['L1']:.3f} ({published['evaluations']:,.0f})"
        fast = [f"{row['iou']:.3f} / {row['l1']:.3f} ({row['steps']})" for row in (pgd, adv2)]
        rows.append([name.upper(), *controls, fast[0], both, fast[1]])
    return table(["", "noise", "target class", "PGD", "ADV2 `paper`", "ADV2 `fast`"], *rows, right=(1, 2))


def rounding() -> str:
    """Single images under other batches, threads and kernels."""
    ways = ("batches of 1", "the victim itself", "batches of 8", "2 threads", "3 threads")
    head = ["", "IoU", *(f"{way}: equal" for way in ways), "IoU, batches of 1", "IoU, the victim", "largest difference"]
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in read("rounding_cpu")["rows"]:
        found.setdefault((row["interpreter"], row["attack"], row["precision"]), {})[row["computed"]] = row
    rows = []
    for (interpreter, attack, precision), computed in found.items():
        first = computed["one batch, 1 thread, copy"]
        means = [f"{one['mean IoU']:.3f}" for one in (computed[ways[0]], computed[ways[1]])]
        largest = max(one["largest difference"] for one in computed.values())
        equal = [f"{computed[way]['equal images']}" for way in ways]
        name = f"{interpreter}, {attack.partition(',')[0]}, {precision}"
        rows.append([name, f"{first['mean IoU']:.3f}", *equal, *means, f"{largest:.3f}"])
    return table(head, *rows, right=range(1, 10))


def report() -> str:
    """Memory and CPU time of a report."""
    head = ("images", "records, GB", "end of an evaluation: peak MB", "CPU s", "`report RUN`: peak MB", "CPU s")
    found: dict[int, dict[str, Row]] = {}
    for row in read("report")["rows"]:
        found.setdefault(row["images"], {})[row["part"]] = row
    rows = []
    for images, parts in found.items():
        cells = [f"{parts[part][key]:{form}}" for part in ("end", "report") for key, form in _COSTS.items()]
        rows.append((f"{images:,}", f"{parts['end'][_GB]:.2f}", *cells))
    return table(head, *rows, right=range(6))


_COSTS, _GB = {"peak MB": ".0f", "CPU s": ".1f"}, "records' GB"


def memory() -> str:
    """The graph of one image."""
    rows = [
        (row["what"], f"{row['graph MiB']:.0f}", f"{row['graph MiB, plain']:.0f}", f"{row['fit']}")
        for row in read("memory_cpu")["rows"]
    ]
    return table(("", "copy", "plain", "batch"), *rows, right=(1, 2, 3))


def batches() -> str:
    """A step by batch and image size."""
    rows = [(row["case"], f"{row['ms']:.3g}") for row in read("batches_cpu")["rows"]]
    return table(("", "ms"), *rows, right=(1,))


def training() -> str:
    """Images per second of the trainings."""
    rows = [(row["what"], f"{row['images/s']:.0f}", f"{row['ratio']:.1f}") for row in read("training_cpu")["rows"]]
    return table(("", "images/s", "ratio"), *rows, right=(1, 2))


def derivatives() -> str:
    """How many map gradients are right."""
    rows, outcomes = read("derivatives_cpu")["rows"], ("right", "right (flat)", "refused")
    counts = []
    for variant in ("plain", "compiled whole", "compiled in part", "in place"):
        found = [sum(row[variant] == outcome for row in rows) for outcome in outcomes]
        counts.append((variant, *(f"{count}" for count in (*found, len(rows) - sum(found)))))
    return table(("", "right", "right, constant map", "refused", "wrong"), *counts, right=range(1, 5))


def aid() -> str:
    """IoU and L1 of attacks on RTS and RTS-A."""
    content = read("aid_cifar10")
    found = {(row["interpreter"], row["attack"], row["schedule"]): row for row in content["rows"]}
    rows = []
    for (attack, schedule), (title, steps) in _AID_ATTACKS.items():
        rts, rts_a = found["rts", attack, schedule], found["rts_a", attack, schedule]
        cells = [(rts, "iou", "l1"), (rts_a, "iou", "l1")]
        cells += [(rts_a, f"iou_{name}", f"l1_{name}") for name in ("true_class", "target_class")]
        rows.append([title, steps, *(f"{row[iou]:.3f} / {row[l1]:.3f}" for row, iou, l1 in cells)])
    worst = {row["interpreter"]: f"{row['worst_iou']:.3f}" for row in content["resilience"]}
    rows.append(["highest IoU per image over all attacks", "", worst["rts"], worst["rts_a"], "", ""])
    return table(["", "steps", "RTS", "RTS-A", "RTS-A, both for c", "RTS-A, both for c_t"], *rows, right=(1,))


_AID_ATTACKS = {
    ("noise", "control"): ("uniform noise (control)", ""),
    ("pgd", "fast"): ("PGD", "50"),
    ("adv2", "fast"): ("ADV2 `fast`", "100"),
    ("adv2_long", "fast"): ("ADV2, 2 restarts", "2 x 200"),
    ("adv2", "paper"): ("ADV2 `paper`", "1,300"),
    ("stadv-adv2", "fast"): ("StAdv-ADV2", "100"),
}


def aid_quality() -> str:
    """Benign maps of RTS, RTS-A and the controls."""
    keys = ("agreement_l1", "preserved", "gap", "deletion", "insertion", "randomised_correlation")
    titles = {"rts": "RTS", "rts_a": "RTS-A", "noise": "noise map", "constant": "constant map"}
    quality = read("aid_cifar10")["quality"]
    rows = [(title, *(f"{quality[name][key]:.3f}" for key in keys)) for name, title in titles.items()]
    head = ("", "L1 to RTS", "preserved", "gap", "deletion", "insertion", "correlation, shuffled weights")
    return table(head, *rows, right=range(1, 7))


def aid_noise() -> str:
    """Maps of RTS and RTS-A under plain noise."""
    noise = read("aid_cifar10")["noise"]
    found = {(row["interpreter"], row["kind"], row["rate"]): row for row in noise["rows"]}
    rows = []
    for level in noise["levels"]:
        kind, rate = level["kind"], level["rate"]
        pairs = [found[name, kind, rate] for name in ("rts", "rts_a")]
        share = f"{level['misclassified']} of {level['images']}"
        rows.append(
            [kind, share, f"{level['level'] * 255:.1f}", *(f"{row['iou']:.3f} / {row['l1']:.3f}" for row in pairs)]
        )
    return table(["noise", "misclassified", "level x 255", "RTS", "RTS-A"], *rows, right=(2,))


def aid_transfer() -> str:
    """Attacks on one of RTS and RTS-A, explained by the other."""
    found = {(row["source"], row["attack"], row["schedule"]): row["iou"] for row in read("aid_cifar10")["transfer"]}
    attacks = [key for key in _AID_ATTACKS if ("rts", *key) in found]
    rows = [
        [title, *(f"{found[source, *key]:.3f}" for key in attacks)]
        for source, title in (
            ("rts", "made for RTS, explained by RTS-A"),
            ("rts_a", "made for RTS-A, explained by RTS"),
        )
    ]
    return table(["map IoU", *(_AID_ATTACKS[key][0] for key in attacks)], *rows, right=range(1, 5))


def aid_settings() -> str:
    """Benign maps and resilience for the settings of AID."""
    rows = []
    for row in read("aid_settings")["rows"]:
        both = f"{row['L1, c']:.3f} / {row['L1, c_t']:.3f}"
        images = f" ({row['images']})" if row["images"] else ""
        minutes = f"{row['minutes'] or ''}"
        rows.append((row["training"], f"{row['steps']:,}", minutes, both, f"{row['IoU']:.3f}{images}"))
    return table(("training", "steps", "minutes", "L1, c / c_t", "IoU (images)"), *rows, right=(1, 2, 4))


def evaluation() -> str:
    """The share of the attacks in whole evaluations."""
    rows = [
        (", ".join(run["interpreters"]).upper(), f"{run['images']}", f"{run['seconds']:.0f}", f"{run['share']:.0%}")
        for run in read("evaluation")["end_to_end"]
    ]
    return table(("interpreters", "images", "s", "inside the attacks"), *rows, right=(1, 2, 3))


def kills() -> str:
    """What twenty kills did."""
    found = read("kills")
    equal = ", ".join(f"`{name}`" for name, same in found["equal_to_the_byte"].items() if same)
    rows = [
        ("kills", f"{found['kills']}"),
        ("finished batches attacked again", f"{found['again']} of {found['units']}"),
        ("finished records rewritten", f"{found['rewritten']} of {found['units']}"),
        ("unfinished batches begun again", f"{found['begun_twice']} of at most {found['kills'] * found['processes']}"),
        ("slowest end of the other process, s", f"{found['slowest_end']:.1f}"),
        ("files equal to the byte", equal),
    ]
    return table(("", "measured"), *rows)


def front_door() -> str:
    """CPU time until the command line says something."""
    names = {"whole": "`{}`", "first line": "first line of `{}`", "signals are kept": "`{}` until SIGUSR1 is kept"}
    rows = [
        (
            names[row["until"]].format(row["command"]),
            *(f"{row[f'{name}_ms']:,.0f}" for name in ("before", "after", "floor")),
            f"{row['ratio']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})",
        )
        for row in read("front_door")["rows"]
    ]
    return table(("", "before: ms", "after: ms", "floor: ms", "after / before"), *rows, right=(1, 2, 3))


def tables() -> Iterator[tuple[str, str]]:
    """Every table with its name."""
    made = (attacks, steps, drift, maps, quality, evaluation, rounding, report, memory, batches, training)
    for make in (*made, derivatives, kills, front_door, aid, aid_quality, aid_noise, aid_transfer, aid_settings):
        yield make.__name__, make()


if __name__ == "__main__":
    for name, text in tables():
        print(f"{name}\n\n{text}")
