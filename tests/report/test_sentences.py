"""What a page says in words follows from the figures."""

from __future__ import annotations

from pathlib import Path

import torch

from lightning_adv2.report.run_page import run_sections
from report.build import make_record
from report.runs import make_run


def texts(folder: Path, joint: int, noise: int) -> tuple[str, str]:
    """Summary and legend of a run in which so many of 16 pixels of the map are left."""
    record = make_record(0, ["a", "b"])
    record.benign_map = record.target_map = torch.ones(2, 1, 4, 4)
    for attack, left in zip(record.attacks, (noise, 0, joint), strict=True):
        attack.adv_map = (torch.arange(16) < left).float().view(1, 1, 4, 4).repeat(2, 1, 1, 1)
    shown = {section.title: section for section in run_sections(make_run(folder, [record]))}
    (table,) = shown["Results"].blocks
    return shown["Summary"].text, table.note


def test_adv2_beside_the_noise(tmp_path: Path) -> None:
    above, _ = texts(tmp_path / "above", joint=12, noise=4)
    below, _ = texts(tmp_path / "below", joint=4, noise=12)
    assert "read ADV2's between that and 1" in above
    assert "read ADV2's" not in below
    assert "ADV2 leaves no more of the map than noise does" in below
    assert "under 1 interpreter (" in above


def test_green_only_where_something_is_green(tmp_path: Path) -> None:
    assert "green" in texts(tmp_path / "some", joint=12, noise=12)[1]
    assert "green" not in texts(tmp_path / "none", joint=4, noise=12)[1]
