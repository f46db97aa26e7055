"""From values of single images to rows of means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lightning_adv2.functional.bootstrap import bootstrap_interval
from lightning_adv2.results.means import defined, empty_key, mean_of
from lightning_adv2.results.records import AttackRecord, BatchRecord
from lightning_adv2.results.summary import Row


def attack_heads(record: BatchRecord) -> Iterator[tuple[Row, AttackRecord]]:
    """For each attack of a record the names that all its images share, with an ``order`` for :func:`mean_rows`."""
    for index, attack in enumerate(record.attacks):
        names = {"interpreter": record.interpreter, "attack": attack.attack, "schedule": attack.schedule}
        kind = {"role": attack.role, "threat_model": attack.threat_model}
        yield {"order": (record.place, index), **names, **kind}, attack


def image_rows(
    head: Row, record: BatchRecord, keep: Iterable[int], values: Mapping[str, Sequence[float | None]]
) -> list[Row]:
    """One row per image for :func:`mean_rows`, and one without an image, so that a group without images has a row.

    Args:
        head: names of the group, and ``order``: sorts the groups.
        record: whose images these are.
        keep: indices of the images that count.
        values: by metric, one per index in ``keep``.
    """
    rows: list[Row] = [head | {"image_id": None, "order": (*head["order"], record.batch_index, -1)}]
    for row, i in enumerate(keep):
        own = {name: column[row] for name, column in values.items()}
        order = (*head["order"], record.batch_index, i)
        rows.append(head | {"order": order, "image_id": record.image_id[i], **own})
    return rows


def mean_rows(
    images: Iterable[Row], keys: Sequence[str], metrics: Sequence[str], intervals: Sequence[str] = ()
) -> list[Row]:
    """One row per group of images: the names, ``n``, and of every metric the mean and how many images have no value.

    The means are summed exactly, so that the order of the images does not show; an image that comes twice in a group
    counts once. NaN and None are in no mean and in no interval; their number among the ``n`` images has the key
    :func:`~lightning_adv2.results.means.empty_key`: ``empty_<metric>``, of ``iou`` ``empty``.

    Args:
        images: of :func:`image_rows`.
        keys: names that tell groups apart; the rows keep them.
        metrics: names of the values.
        intervals: the metrics that get ``<metric>_low`` and ``<metric>_high``, a 95% interval by bootstrap over images.

    Returns:
        The rows in the order of the groups. A mean over no image is None.
    """
    groups: dict[tuple[object, ...], dict[str, Row]] = {}
    for image in sorted(images, key=lambda row: row["order"]):
        group = groups.setdefault(tuple(image[key] for key in keys), {})
        if image["image_id"] is not None:
            group.setdefault(image["image_id"], image)
    rows: list[Row] = []
    for names, found in groups.items():
        row: Row = dict(zip(keys, names, strict=True)) | {"n": len(found)}
        for metric in metrics:
            values = defined(image[metric] for image in found.values())
            row[metric] = mean_of(values)
            row[empty_key(metric)] = len(found) - len(values)
            if metric in intervals:
                row[f"{metric}_low"], row[f"{metric}_high"] = bootstrap_interval(values) if values else (None, None)
        rows.append(row)
    return rows
