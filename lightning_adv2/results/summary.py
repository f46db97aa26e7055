"""The summary of a run: rows, images, denominators; and the limit of invalid images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_adv2.results.benign import said_once
from lightning_adv2.results.traces import Curves

Row = dict[str, Any]
Status = tuple[str, str]
"""One of ``STATUSES``, and the reason or an empty string."""

STATUSES = ("attacked", "already_wrong", "skipped", "invalid")
STATUS_KEYS = ("image_id", "interpreter", "status", "reason")


@dataclass
class Summary:
    """The tables of a run.

    Attributes:
        rows: one per interpreter and attack, with the keys ``ROW_KEYS``; ``empty`` of the n images have no ``iou`` and
            ``plausible``, because both maps are empty at the threshold, and are in the other means alone; ``flags``
            counts the batches that raised each, and is 1 where all images together did.
        images: one per image, interpreter and attack.
        denominators: ``considered = already_wrong + skipped + invalid + selected``, and ``reasons`` counts why images
            are invalid. ``selected`` images are attacked; of those, per attack, ``invalid`` gave NaN or infinity and
            are left out of the means, so that ``n + invalid = selected``; ``successful`` of the n reach the target
            class. Where there are several interpreters, such a dictionary for each under its name.
        statuses: one per image and interpreter, with the keys ``STATUS_KEYS``.
        benign: of each interpreter what :func:`~lightning_adv2.results.benign.benign_facts` says: how often the
            classifier is right without an attack, how large the benign maps are, and what is doubtful about either.
        seconds: of each attack under each interpreter, all batches together. Not in ``rows``, which are the same for
            every run.
        traces: of each interpreter the mean curves of the attacks that have some.
        halvings: of each interpreter how many more parts its batches were attacked in than there are batches, where
            the memory was too small for one.
    """

    rows: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    denominators: dict[str, Any] = field(default_factory=dict)
    statuses: list[Row] = field(default_factory=list)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    benign: dict[str, dict[str, Any]] = field(default_factory=dict)
    traces: dict[str, Curves] = field(default_factory=dict)
    halvings: dict[str, int] = field(default_factory=dict)

    @property
    def by_interpreter(self) -> dict[str, dict[str, Any]]:
        """The denominators of each interpreter, by its name."""
        if "considered" not in self.denominators:
            return self.denominators
        return {next((row["interpreter"] for row in self.statuses), ""): self.denominators}

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The denominators of each interpreter."""
        return list(self.by_interpreter.values())


def merge(summaries: dict[str, Summary]) -> Summary:
    """The summaries of several interpreters as one; the denominators stay apart, under the interpreters' names."""
    merged = Summary(denominators={key: summary.denominators for key, summary in summaries.items()})
    for summary in summaries.values():
        merged.rows += summary.rows
        merged.images += summary.images
        merged.statuses += summary.statuses
        merged.seconds |= summary.seconds
        merged.benign |= summary.benign
        merged.traces |= summary.traces
        merged.halvings |= summary.halvings
    return merged


def count_statuses(statuses: Mapping[str, Status]) -> dict[str, Any]:
    """The number of images with each status, which add up to ``considered``, and of each reason to be invalid."""
    count = Counter(status for status, _ in statuses.values())
    reasons = Counter(reason for status, reason in statuses.values() if status == "invalid")
    return {
        "considered": len(statuses),
        "already_wrong": count["already_wrong"],
        "skipped": count["skipped"],
        "invalid": count["invalid"],
        "selected": count["attacked"],
        "reasons": dict(sorted(reasons.items())),
    }


def denominator_lines(summary: Summary) -> list[str]:
    """Sentences with the denominators: one for all interpreters where they are the same, else one for each."""
    return said_once({name: _in_words(part) for name, part in summary.by_interpreter.items()})


def _in_words(part: dict[str, Any]) -> str:
    reasons = f" ({_reasons(part)})" if part["reasons"] else ""
    return (
        f"{part['considered']:,} considered: {part['already_wrong']:,} already wrong, {part['skipped']:,} skipped, "
        f"{part['invalid']:,} invalid{reasons}, {part['selected']:,} attacked"
    )


def _reasons(part: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in part["reasons"].items())


def check_invalid(summary: Summary, limit: float) -> None:
    """Raise an error where too many images are invalid, before the attack or under it.

    Args:
        summary: of the run; written already, so that it can be looked into.
        limit: share in [0, 1] of ``selected + invalid`` images that may be invalid under an attack; 0 allows none.

    Raises:
        RuntimeError: names interpreter, attack, counts and reasons.
    """
    found = []
    for interpreter, part in summary.by_interpreter.items():
        total = part["selected"] + part["invalid"]
        # Without any attack all were invalid, or wrong already.
        for attack, count in (part["attacks"] or {"no attack": {"invalid": 0}}).items():
            if part["invalid"] + count["invalid"] > limit * total:
                under = f"{_reasons(part)}, not finite under attack {count['invalid']:,}".removeprefix(", ")
                found.append(f"{interpreter}, {attack}: {part['invalid'] + count['invalid']:,} of {total:,} ({under})")
    if found:
        raise RuntimeError(
            f"max_invalid={limit:g}: too many images are invalid, so that the rest says little about robustness. "
            f"{'; '.join(found)}. status.csv and images.csv name them; check the classifier and the interpreter on "
            "these images, in float32 or float64, or raise max_invalid"
        )
