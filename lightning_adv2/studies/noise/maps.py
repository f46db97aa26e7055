"""Pictures of single images that the noise misleads (Figure 15)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from lightning_adv2.functional.noise import add_noise
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.report.figures import Cell, grid, map_cell, overlay
from lightning_adv2.results.records import to_numpy, to_uint8
from lightning_adv2.results.summary import Row
from lightning_adv2.studies.noise.measure import Correct, predict


def noise_maps(
    classifier: Classifier,
    interpreters: Sequence[Interpreter],
    parts: Sequence[Correct],
    levels: Sequence[Row],
    classes: Sequence[str],
    seed: int,
    device: torch.device,
    most: int = 3,
) -> Figure | None:
    """Images that the noise makes the classifier get wrong: clean and noisy, with every interpreter's maps for c.

    Args:
        classifier: in eval mode.
        interpreters: in eval mode.
        parts: correctly classified images.
        levels: of the noise; the one with the most misclassified images is shown.
        classes: class names.
        seed: of the noise.
        device: where to compute.
        most: at most so many images.

    Returns:
        None where no image is misclassified.
    """
    level = max(levels, key=lambda one: one["misclassified"])
    rows: list[list[Cell]] = []
    for images, label, names in (chunk for part in parts for chunk in part.chunks(device)):
        noisy = add_noise(images, names, level["kind"], level["level"] or 0.0, seed)
        predicted, right = predict(classifier, noisy, label)
        for i in (~right).nonzero()[:, 0].tolist()[: most - len(rows)]:
            clean, other = to_uint8(images[i]), to_uint8(noisy[i])
            row: list[Cell] = [(to_numpy(clean), classes[int(label[i])], "black")]
            row.append((to_numpy(other), f"noisy: {classes[int(predicted[i])]}", "black"))
            for one in interpreters:
                benign = one.explain(classifier, images[i : i + 1], label[i : i + 1]).attribution_map.cpu()[0]
                shown = one.explain(classifier, noisy[i : i + 1], label[i : i + 1]).attribution_map
                row += [
                    (overlay(clean, benign), f"{one.name.upper()}, clean", "black"),
                    map_cell(shown[0], benign, other),
                ]
            rows.append(row)
        if len(rows) >= most:
            break
    title = f"{level['kind'].capitalize()} noise at which {level['rate_reached'] or 0:.0%} are misclassified"
    return grid(rows, title) if rows else None
