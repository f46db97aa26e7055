from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_adv2.audit.recount import Contents
from lightning_adv2.audit.studies_consistent import confusion
from lightning_adv2.report.confusion import confusion_content


def content_of(classes: int) -> dict[str, Any]:
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for true, predicted in torch.randint(classes, (500, 2), generator=generator).tolist():
        counts[true, predicted] += 1
    return asdict(confusion_content(counts, [str(i) for i in range(classes)], "test"))


def found(content: dict[str, Any]) -> list[str]:
    return list(confusion(content, Contents(), {}, Path()))


@pytest.mark.parametrize("classes", [7, 150])
def test_shares_are_counted_again_from_the_cells(classes: int) -> None:
    content = content_of(classes)
    assert not found(content)
    cell = next(one for one in content["details"]["cells"] if one["true_class"] == 3)
    cell["images"] += 1
    lines = found(content)
    assert any(line.startswith("all: images is 500, counted again 501") for line in lines)
    assert any(line.startswith("class '3': images is") for line in lines)


@pytest.mark.parametrize("cells", [[(0, 1, -2)], [(0, 1, 2), (0, 1, 3)], [(0, 1, 0.5)], [(0, 150, 1)], [(-1, 0, 1)]])
def test_cells_of_no_matrix(cells: list[tuple[float, ...]]) -> None:
    keys = ("true_class", "predicted_class", "images")
    details = {"cells": [dict(zip(keys, cell, strict=True)) for cell in cells]}
    assert any("they are not those of a matrix" in line for line in found(content_of(150) | {"details": details}))
