"""What happened in an evaluation, in words that follow from its figures."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adv2.results.benign import accuracy_lines, benign_flags
from lightning_adv2.results.blind import CLOSE
from lightning_adv2.results.records import BENIGN, record_key
from lightning_adv2.results.run import Run
from lightning_adv2.results.summary import Row


def attacks_of(rows: Sequence[Row]) -> list[Row]:
    """The rows without the controls'."""
    return [row for row in rows if row["role"] != "control"]


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
    attacks = list(dict.fromkeys(record_key(row["attack"], row["schedule"]) for row in attacks_of(rows)))
    said = [
        f"{_subject(run)}. {selected:,} images were attacked under {_counted(len(run.summary.by_interpreter))} "
        f"({', '.join(run.summary.by_interpreter)}) with {', '.join(attacks)}. An attack succeeds where the classifier "
        "then sees the target class (ASR); the map IoU says how much of the target map is left in the attacked image's "
        "map: 1 is all of it, so that nobody who looks at the map would notice."
    ]
    said += benign
    said += [sentence for name in run.summary.by_interpreter if (sentence := _told(name, rows))]
    flagged = sum(bool(row["flags"]) for row in rows)
    return said + ([f"{flagged} of {len(rows)} rows are flagged: see 'Denominators and flags'."] if flagged else [])


def _told(name: str, rows: list[Row]) -> str:
    """The first attack of each role and threat model on one interpreter, and the controls, in a sentence."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row["interpreter"] == name and row["n"]:
            first.setdefault((row["role"], row["threat_model"]), row)
    attacks = sorted(attacks_of([*first.values()]), key=lambda row: bool(row["needs_map"]))
    noise = next((row for (role, threat), row in first.items() if role == "control" and threat != "none"), None)
    parts = [
        f"{_called(row)} ({row['schedule']}) reaches the target class on {row['asr']:.1%} of the images and leaves "
        f"a map IoU of {_iou(row)}"
        for row in attacks
    ]
    if parts and (benign := first.get(("control", "none"))):
        parts.append(f"the benign image, only explained for the target class, has {_iou(benign)}")
    if parts and noise:
        parts.append(f"under uniform noise of {_beside(noise, attacks)} it is {_iou(noise)}")
        parts += [reading for row in attacks if row["needs_map"] and (reading := _reading(row, noise))]
    return f"{name}: {'; '.join(parts)}." if parts else ""


def _called(row: Row) -> str:
    return str(row["attack"]).upper()


def _size(row: Row) -> str:
    """How far an attack or control went, in its own unit."""
    return f"Linf {row['linf'] * 255:.1f}/255" if row["unit"] == "Linf" else f"{row['size']:.2f} {row['unit']}"


def _beside(noise: Row, attacks: Sequence[Row]) -> str:
    """The noise's size, and those of the attacks where they are others."""
    if {*map(_size, attacks)} == {_size(noise)}:
        return f"the same size ({_size(noise)})"
    return f"{_size(noise)} ({', '.join(f'{_called(row)}: {_size(row)}' for row in attacks)})"


def _iou(row: Row) -> str:
    if row["iou"] is None:
        return "undefined (all maps are empty)"
    over = f" over the {row['n'] - row['empty']:,} of {row['n']:,} images whose maps are not both empty"
    return f"{row['iou']:.2f}" + over * bool(row["empty"])


def _reading(joint: Row, noise: Row) -> str:
    """What the noise control says of a joint attack's figure; nothing where their sizes have different units."""
    if joint["iou"] is None or noise["iou"] is None or joint["unit"] != noise["unit"]:
        return ""
    name = _called(joint)
    if min(joint["iou"], noise["iou"]) >= CLOSE:
        less = "less than noise" if joint["l1"] < noise["l1"] else "no less than noise"
        both = f"L1 {joint['l1']:.3f}, noise {noise['l1']:.3f}"
        return f"{name} and noise leave nearly all of the map, and {name} changes it {less} ({both})"
    if joint["iou"] > noise["iou"]:
        return f"so read {name}'s between that and 1"
    return f"{name} leaves no more of the map than noise does"


def _counted(interpreters: int) -> str:
    return f"{interpreters} interpreter{'s' * (interpreters != 1)}"
