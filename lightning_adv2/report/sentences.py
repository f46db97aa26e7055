"""What happened in an evaluation, in words that follow from its figures."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adv2.report.benign import accuracy_lines, benign_flags
from lightning_adv2.report.records import BENIGN, record_key
from lightning_adv2.report.run import Run
from lightning_adv2.report.summary import Row


def attacks_of(rows: Sequence[Row]) -> list[Row]:
    """The rows without the controls'."""
    return [row for row in rows if row["schedule"] != "control"]


def _subject(run: Run) -> str:
    target = next((row["target"] for row in run.summary.rows), BENIGN)
    wanted = "the benign one" if target == BENIGN else f"'{target}'"
    return f"Data set {run.about['dataset']}, classifier {run.about['classifier']}, target map: {wanted}"


def sentences(run: Run) -> list[str]:
    """What happened, in words."""
    rows = run.summary.rows
    benign = [f"{line}." for line in accuracy_lines(run.summary.benign)]
    benign += [f"{name}: {text}." for name, text in benign_flags(run.summary.benign)]
    if not rows:
        return [f"{_subject(run)}. No image was attacked yet, so there is nothing to report.", *benign]
    selected = max(part["selected"] for part in run.summary.parts)
    attacks = list(dict.fromkeys(record_key(r["attack"], r["schedule"]) for r in rows if r["schedule"] != "control"))
    said = [
        f"{_subject(run)}. {selected:,} images were attacked under {_counted(len(run.summary.by_interpreter))} "
        f"({', '.join(run.summary.by_interpreter)}) with {', '.join(attacks)}. An attack succeeds where the classifier "
        "then sees the target class (ASR); the map IoU says how much of the target map is left in the attacked image's "
        "map: 1 is all of it, so that nobody who looks at the map would notice."
    ]
    said += benign
    said += [sentence for name in run.summary.by_interpreter if (sentence := _told(name, rows))]
    flagged = sum(bool(row["flags"]) for row in rows)
    return said + ([f"{flagged} of {len(rows)} rows are flagged: see 'Where every image went'."] if flagged else [])


def _told(name: str, rows: list[Row]) -> str:
    """PGD and ADV2 on one interpreter, in a sentence."""
    own = {row["attack"]: row for row in reversed(rows) if row["interpreter"] == name and row["n"]}
    parts = [
        f"{attack.upper()} ({row['schedule']}) reaches the target class on {row['asr']:.1%} of the images and leaves "
        f"a map IoU of {_iou(row)}"
        for attack, row in ((name, own.get(name)) for name in ("pgd", "adv2"))
        if row
    ]
    if parts and "target_class" in own:
        parts.append(f"the benign image, only explained for the target class, has {_iou(own['target_class'])}")
    if parts and "noise" in own:
        parts.append(f"under plain noise of the same size it is {_iou(own['noise'])}{_reading(own)}")
    return f"{name}: {'; '.join(parts)}." if parts else ""


def _iou(row: Row) -> str:
    return "undefined (all maps are empty)" if row["iou"] is None else f"{row['iou']:.2f}"


def _reading(own: dict[str, Row]) -> str:
    """What the noise control says of ADV2's figure."""
    joint, noise = own.get("adv2", {}).get("iou"), own["noise"]["iou"]
    if joint is None or noise is None:
        return ""
    if joint > noise:
        return ", so read ADV2's between that and 1"
    return ": ADV2 leaves no more of the map than noise does"


def _counted(interpreters: int) -> str:
    return f"{interpreters} interpreter{'s' * (interpreters != 1)}"
