"""The figures of a run: bars over all interpreters, and of each interpreter the gallery and the convergence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_adv2.files.sums import renew_sums
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.report import run_figures
from lightning_adv2.report.findings import draw_missing
from lightning_adv2.report.harmless import draw, harmless
from lightning_adv2.report.results_table import print_table
from lightning_adv2.results.records import BatchRecord, titled
from lightning_adv2.results.run import Run, is_whole
from lightning_adv2.results.summary import Summary
from lightning_adv2.results.traces import Curves
from lightning_adv2.results.writing import write_results


def write_report(run: Run, stamp: dict[str, Any]) -> list[Path]:
    """Write tables and figures and print the table; returns the paths of the figures.

    Args:
        run: what to report.
        stamp: versions, machine, time and revision; see ``results.stamp``.
    """
    write_results(run.folder, run.summary, stamp)
    pictures = draw_figures(run)
    selected = max((part["selected"] for part in run.summary.parts), default=0)
    with harmless(f"the table of {run.folder / 'results.json'}"):
        print_table(run.summary, f"{run.about['dataset']}, {run.about['classifier']}: {selected} images")
    return pictures


def draw_figures(run: Run, keep: bool = False) -> list[Path]:
    """Draw the figures of a run, with ``keep`` only the missing ones; returns the paths of the figures that exist."""
    return write_figures(run.folder / "figures", run.first_records, run.summary, run.about["classes"], keep)


def complete_figures(run: Run) -> None:
    """Draw the figures that are missing, also the studies'; of a run that has not come to its end, all of its own."""
    folder = run.folder / "figures"
    before = {*folder.rglob("*.png")}
    draw_figures(run, keep=is_whole(run))
    draw_missing(run.folder)
    renew_sums(run.folder, *({*folder.rglob("*.png")} - before))


def write_figures(
    folder: Path,
    records: Callable[[], Iterable[BatchRecord]],
    summary: Summary,
    classes: Sequence[str],
    keep: bool = False,
) -> list[Path]:
    """Draw bars over all interpreters, and the gallery and convergence of each; an error becomes a warning.

    With one interpreter all lie in ``folder``; with several each has its own folder below, and ``overview.png`` shows
    one image under all of them.

    Args:
        folder: of the figures.
        records: gives those of the run, an interpreter's together; of each interpreter the first with an attacked
            image is shown, and one is in memory at a time.
        summary: of the run.
        classes: class names.
        keep: leave figures that are there.

    Returns:
        The paths of the figures that exist.
    """
    drawn = partial(draw, keep=keep)
    if not summary.rows:
        return []  # no image was attacked
    paths = drawn(folder / "agreement.png", lambda: run_figures.bars(summary.rows))
    several = len(summary.parts) > 1
    gains: list[dict[str, float] | None] = []
    for record in _first(records()):
        curves = summary.traces.get(record.interpreter, {})
        own = folder / record.interpreter if several else folder
        paths += [path for name, make in _own(record, curves, classes) for path in drawn(own / f"{name}.png", make)]
        gains.append(_gains(record))
    if several:
        paths += drawn(folder / "overview.png", lambda: _overview(_telling(gains), _first(records()), classes))
    return paths


def _first(records: Iterable[BatchRecord]) -> Iterator[BatchRecord]:
    """Of each interpreter the first record with an attacked image."""
    seen = set[str]()
    for record in records:
        if record.image_id and record.interpreter not in seen:
            seen.add(record.interpreter)
            yield record


def _own(record: BatchRecord, curves: Curves, classes: Sequence[str]) -> list[tuple[str, Callable[[], Figure | None]]]:
    """The figures of one interpreter."""
    name, shown = record.interpreter.upper(), run_figures.shown_attacks(record)
    listed = " and ".join(", ".join(["benign", *(attack.attack.upper() for attack in shown)]).rsplit(", ", 1))
    headings = (f"{name}: {listed}", f"{name}: the joint attack, step by step (means over images)")
    gallery, convergence = (titled(heading, record.target) for heading in headings)
    return [
        ("gallery", lambda: run_figures.gallery(record, shown, classes, gallery) if shown else None),
        ("convergence", lambda: run_figures.convergence(curves, convergence) if curves else None),
    ]


def _gains(record: BatchRecord) -> dict[str, float] | None:
    """By how much the last attack's maps stay nearer to the target map than the first one's; None without attacks."""
    shown = run_figures.shown_attacks(record)
    if not shown:
        return None
    plain, joint = (map_iou(attack.adv_map, record.target_map) for attack in (shown[0], shown[-1]))
    return dict(zip(record.image_id, (joint - plain).nan_to_num(-1.0).tolist(), strict=True))


def _telling(gains: Sequence[dict[str, float] | None]) -> str | None:
    """The image under all interpreters on which the first attack's maps go astray most while the last one's stay."""
    known = [one for one in gains if one is not None]
    if not known or len(known) < len(gains):
        return None
    common = {name: sum(one[name] for one in known) for name in known[0] if all(name in one for one in known)}
    return max(common, key=lambda name: common[name]) if common else None


def _overview(image_id: str | None, records: Iterable[BatchRecord], classes: Sequence[str]) -> Figure | None:
    if image_id is None:
        return None
    shown = {record.interpreter: record.only([record.image_id.index(image_id)]) for record in records}
    heading = titled(f"Same image, {len(shown)} interpreters", next(iter(shown.values())).target)
    return run_figures.overview(shown, image_id, classes, heading)
