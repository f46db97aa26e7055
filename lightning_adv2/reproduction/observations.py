"""The paper's Observations, each decided by a rule in the paper's own figures: held, not held, or not tested."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lightning_adv2.reproduction import published
from lightning_adv2.reproduction.cells import Cell, Measured

HELD, NOT_HELD, NOT_TESTED = "held", "not held", "not tested"
Results = Mapping[str, Sequence[Measured]]
"""Item -> its rows; items that were not run are missing."""


@dataclass(frozen=True)
class Observation:
    """A claim of the paper.

    Attributes:
        number: the paper's; the preprint numbers two of them 8.
        claim: in short.
        tables: keys of the items whose rows decide.
        rule: what must hold, in words, with the paper's own thresholds.
        decide: evidence for and against, one finding each, as (holds, what was seen); empty where nothing was run.
    """

    number: str
    claim: str
    tables: tuple[str, ...]
    rule: str
    decide: Callable[[Results], list[tuple[bool, str]]]


@dataclass(frozen=True)
class Verdict:
    """What became of an observation.

    Attributes:
        observation: which.
        verdict: ``held`` where every finding holds, ``not held`` where one does not, ``not tested`` without any.
        evidence: in words: what speaks against it, or else the weakest that was seen.
    """

    observation: Observation
    verdict: str
    evidence: str


def verdicts(results: Results, asked: Collection[str] | None = None) -> list[Verdict]:
    """The verdicts on the observations that at least one of the tables concerns.

    Args:
        results: rows of the tables.
        asked: keys of the tables; None takes all.
    """
    found = []
    for one in OBSERVATIONS:
        if asked is not None and not set(one.tables) & set(asked):
            continue
        findings = one.decide(results)
        against = [text for holds, text in findings if not holds]
        if not findings:
            found.append(Verdict(one, NOT_TESTED, _untested(one, asked)))
        elif against:
            text = f"{len(against)} of {len(findings)} findings do not hold: " + "; ".join(against)
            found.append(Verdict(one, NOT_HELD, text))
        else:
            found.append(Verdict(one, HELD, "; ".join(text for _, text in findings)))
    return found


def _untested(one: Observation, asked: Collection[str] | None) -> str:
    left = [key for key in one.tables if asked is not None and key not in asked]
    if left:
        return f"table {' and '.join(left)} was not asked for (--tables)"
    return f"no finished run has the rows of table {' and '.join(one.tables)}"


def _pairs(rows: Sequence[Measured], first: str, second: str) -> list[tuple[str, Measured, Measured]]:
    """Rows of the two attacks in the same place otherwise: what it is of, the first, the second."""
    by_place = {row.place: row for row in rows}
    found = []
    for place, row in by_place.items():
        other = by_place.get((*place[:-1], first))
        if place[-1] == second and other is not None:
            found.append((" ".join(place[:-1]), other, row))
    return found


def _effective(results: Results) -> list[tuple[bool, str]]:
    found = []
    for name, _, joint in _pairs(results.get("3", ()), "pgd", "adv2"):
        asr, confidence = joint.cells["asr"].value, joint.cells["confidence"].value
        found.append((asr > 0.95 and confidence >= 0.98, f"{name}: ASR {asr:.1%}, confidence {confidence:.3f}"))
    return found


def _similar(results: Results) -> list[tuple[bool, str]]:
    found = []
    for name, plain, joint in _pairs(results.get("12", ()), "pgd", "adv2"):
        l1, iou = joint.cells["l1"].value, joint.cells["iou"].value
        lower, higher = 1 - l1 / max(plain.cells["l1"].value, 1e-9), iou / max(plain.cells["iou"].value, 1e-9) - 1
        least = 0.9 if name.endswith(" rts") else 0.5
        text = f"{name}: IoU {iou:.3f} (PGD {plain.cells['iou'].value:.3f}), L1 {lower:.0%} below PGD's"
        found.append((lower > 0.6 and higher > 0.4 and iou > least, text))
    return found


def _mean(rows: Sequence[Measured], interpreter: str, attack: str) -> float | None:
    values = [row.cells["detection_rate"].value for row in rows if row.place[1:] == (interpreter, attack)]
    return sum(values) / len(values) if values else None


def _as_detectable(results: Results) -> list[tuple[bool, str]]:
    rows, found = results.get("4", ()), []
    # The paper's own means over the four squeezers differ by up to 10.5 points.
    for name in dict.fromkeys(row.place[1] for row in rows if row.place[2] == "adv2"):
        plain, joint = _mean(rows, name, "pgd"), _mean(rows, name, "adv2")
        if plain is not None and joint is not None:
            text = f"{name}: squeezers detect {joint:.1%} of ADV2's images on average, {plain:.1%} of PGD's"
            found.append((abs(joint - plain) <= 0.105, text))
    return found


def _evasive(results: Results) -> list[tuple[bool, str]]:
    rows = results.get("4", ())
    adaptive = [row for row in rows if row.place[2] == "adaptive"]
    found = []
    for row in adaptive:
        basic = next((o.cells["detection_rate"].value for o in rows if o.place == (*row.place[:2], "adv2")), None)
        rate = row.cells["detection_rate"].value
        holds = rate <= published.ADAPTIVE_DETECTION[1] and (basic is None or rate <= basic)
        before = "" if basic is None else f", before {basic:.1%}"
        found.append((holds, f"{row.place[1]}, {row.place[0]}: {rate:.1%} detected{before}"))
    for name, basic_maps, maps in _pairs(results.get("5", ()), "adv2", "adaptive"):
        iou, before_iou = maps.cells["iou"].value, basic_maps.cells["iou"].value
        found.append((iou >= before_iou - 0.05, f"{name}: IoU {iou:.3f}, before {before_iou:.3f}"))
    return found


def _reaches_its_map(key: str, plain: str, joint: str) -> Callable[[Results], list[tuple[bool, str]]]:
    """ASR above 95% and a map that is plausible, and nearer to what is wanted than without asking for it."""

    def decide(results: Results) -> list[tuple[bool, str]]:
        found = []
        for name, before, after in _pairs(results.get(key, ()), plain, joint):
            asr, iou, chance = after.cells["asr"].value, after.cells["iou"].value, before.cells["iou"].value
            holds = asr > 0.95 and iou > 0.5 and iou > chance
            found.append((holds, f"{name}: ASR {asr:.1%}, IoU {iou:.3f} ({plain.upper()} {chance:.3f})"))
        return found

    return decide


def _transfers_little(results: Results) -> list[tuple[bool, str]]:
    l1 = {row.place: row.cells["l1"].value for row in results.get("9", ())}
    found = []
    for (source, judge), value in l1.items():
        if source == "PGD" or source == judge or ("PGD", judge) not in l1:
            continue
        white, plain = l1[judge, judge], l1["PGD", judge]
        # Nearer to an attack that knows no map than to one that knows this map.
        holds = value >= (white + plain) / 2
        found.append((holds, f"{source} to {judge}: L1 {value:.3f} (PGD {plain:.3f}, made for it {white:.3f})"))
    return found


def _distinct(results: Results) -> list[tuple[bool, str]]:
    transfer = _transfers_little(results)
    joint = {row.place[:2]: row.cells["iou"] for row in results.get("12", ()) if row.place[-1] == "adv2"}
    first = {name: cell for (which, name), cell in joint.items() if which == next(iter(joint))[0]}
    if not transfer or len(first) < 2:
        return []
    low = sum(holds for holds, _ in transfer)
    weakest, strongest = min(first, key=lambda n: first[n].value), max(first, key=lambda n: first[n].value)
    return [
        (low == len(transfer), f"{low} of {len(transfer)} transfers are low"),
        (_apart(first[weakest], first[strongest]),
         f"IoU from {first[weakest].value:.3f} ({weakest}) to {first[strongest].value:.3f} ({strongest})"),
    ]  # fmt: skip


def _apart(lower: Cell, upper: Cell) -> bool:
    return lower.high < upper.low


def _hardened(results: Results) -> list[tuple[bool, str]]:
    rows = {row.place: row.cells for row in results.get("aid", ())}
    if ("rts_a", "adv2") not in rows or ("rts", "adv2") not in rows:
        return []
    before, after = rows["rts", "adv2"]["iou"], rows["rts_a", "adv2"]["iou"]
    found = [
        (after.value <= 0.5 and _apart(after, before), f"IoU {before.value:.3f} with RTS, {after.value:.3f} with RTS-A")
    ]
    if "agreement" in rows.get(("rts_a", "benign"), {}):
        l1 = rows["rts_a", "benign"]["agreement"].value
        found.append((l1 <= 0.05, f"benign maps differ by L1 {l1:.3f}"))
    return found


OBSERVATIONS = (
    Observation("1", "ADV2 deceives the classifier as well as regular attacks do", ("3",),
                "ASR above 95% and confidence of 0.98 or more under every interpreter (Table 3)", _effective),
    Observation("2", "ADV2's maps are highly similar to the benign ones", ("12",),
                "L1 more than 60% below PGD's, IoU above 0.5 (RTS: 0.9) and more than 40% above PGD's, everywhere "
                "(Table 12, Figures 5 and 6)", _similar),
    Observation("3", "Feature squeezing detects ADV2 no better than PGD", ("4",),
                "mean detection rates over the squeezers differ by 10.5 points or less, as in the paper (Table 4)",
                _as_detectable),
    Observation("4", "ADV2 can be adapted to evade feature squeezing", ("4", "5"),
                "no squeezer detects more than 51.7%, none more than before, and IoU falls by 0.05 or less "
                "(Tables 4 and 5)",
                _evasive),
    Observation("5", "ADV2 can be built upon other attack frameworks", ("stadv",),
                "StAdv-ADV2: ASR above 95%, IoU above 0.5 and above StAdv's under every interpreter",
                _reaches_its_map("stadv", "stadv", "stadv-adv2")),
    Observation("6", "A classifier and its interpreter are not fully aligned", ("8",),
                "for random patches and random classes: ASR above 95%, IoU with the target above 0.5 and above PGD's "
                "(Table 8)", _reaches_its_map("8", "pgd", "adv2")),
    Observation("7", "Attacks transfer little between interpreters", ("9",),
                "L1 under another interpreter is nearer to PGD's than to that of the attack made for it, for "
                "every pair (Table 9)", _transfers_little),
    Observation("8", "Interpreters look at distinct aspects of the classifier", ("9", "12"),
                "Observation 7 holds, and IoU of ADV2 differs between interpreters by more than its 95% intervals "
                "(Table 9, Figure 6)", _distinct),
    Observation("8 (second)", "AID reduces the gap between prediction and interpretation", ("aid",),
                "IoU under ADV2 of 0.5 or less with RTS-A and clearly below RTS's, benign L1 of 0.05 or less "
                "(Figure 16)",
                _hardened),
)  # fmt: skip
