"""Pictures of single images: an attack explained by another interpreter (Figure 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.figures import Cell, grid, map_cell, overlay
from lightning_adv2.report.transfer import aims_at_map
from lightning_adv2.results.records import BatchRecord, to_float, to_numpy


def transfer_maps(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    records: Mapping[str, BatchRecord],
    classes: Sequence[str],
    device: torch.device,
    judges: Sequence[Interpreter] = (),
) -> Figure | None:
    """One image: a row per interpreter that the attack was made for, a column per interpreter that explains it.

    The attack is the first that aims at a map. The first row are the benign maps; the image is the first that all
    records have and that every attack fools.

    Args:
        classifier: in eval mode.
        interpreters: in eval mode; those without a record are left out.
        records: of one batch, by interpreter.
        classes: class names.
        device: where to compute.
        judges: in eval mode; they have no records, and explain beside the others.

    Returns:
        None where there is no such image, or nobody else to explain it.
    """
    attacked = [one for one in interpreters if one.name in records]
    aimed = {n: next((a for a in record.attacks if aims_at_map(a)), None) for n, record in records.items()}
    attacks = {name: attack for name, attack in aimed.items() if attack is not None}
    if len(attacked) + len(judges) < 2 or not attacks:
        return None
    fooled = [
        {record.image_id[i] for i in (attacks[n].adv_predicted == record.target_class).nonzero()[:, 0].tolist()}
        for n, record in records.items()
        if n in attacks
    ]
    known = set.intersection(*fooled, *(set(record.image_id) for record in records.values()))
    image_id = next((name for name in next(iter(records.values())).image_id if name in known), None)
    if image_id is None:
        return None
    place = {name: record.image_id.index(image_id) for name, record in records.items()}
    first, at = records[attacked[0].name], place[attacked[0].name]
    pixels, label = first.images[at], classes[int(first.label[at])]
    benign = {one.name: records[one.name].benign_map[place[one.name]] for one in attacked}
    for judge in judges:
        asked = to_float(pixels[None]).to(device), first.label[at : at + 1].to(device)
        benign[judge.name] = judge.explain(classifier, *asked).attribution_map[0].float().cpu()
    rows: list[list[Cell]] = [[(to_numpy(pixels), f"benign: {label}", "black")]]
    rows[0] += [(overlay(pixels, shown), f"by {name.upper()}", "black") for name, shown in benign.items()]
    for name, attack in attacks.items():
        adv, seen = attack.adv_images[place[name]], attack.adv_predicted[place[name]]
        row: list[Cell] = [(to_numpy(adv), f"made for {name.upper()}: {classes[int(seen)]}", "black")]
        for judge in (*attacked, *judges):
            asked = to_float(adv[None]).to(device), seen[None].to(device)
            row.append(map_cell(judge.explain(classifier, *asked).attribution_map[0], benign[judge.name], adv))
        rows.append(row)
    return grid(rows, "One image, attacked for one interpreter and explained by another")
