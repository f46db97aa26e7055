from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_adv2.audit.recount import Contents
from lightning_adv2.audit.studies_consistent import confusion
from lightning_adv2.report.confusion_counts import confusion_content


def content_of(classes: int) -> dict[str, Any]:
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for true, predicted in torch.randint(classes, (500, 2), generator=generator).tolist():
        counts[true, predicted] += 1
    return json.loads(json.dumps(confusion_content(counts, [str(i) for i in range(classes)], "test")))


def found(content: dict[str, Any]) -> list[str]:
    return list(confusion(content, Contents(), {}, Path()))


@pytest.mark.parametrize("classes", [7, 150])
def test_shares_are_counted_again_from_the_matrix_or_its_cells(classes: int) -> None:
    content = content_of(classes)
    assert (content["counts"] is None) == (classes == 150)
    assert not found(content)
    (content["cells"] if classes == 150 else content["counts"])[3][2] += 1
    assert any(line.startswith("all: images is 500, counted again 501") for line in found(content))


@pytest.mark.parametrize("cells", [[[0, 1, -2]], [[0, 1, 2], [0, 1, 3]], [[0, 1, 0.5]]])
def test_cells_that_are_none(cells: list[list[float]]) -> None:
    assert any("no cells of such a matrix" in line for line in found(content_of(150) | {"cells": cells}))
