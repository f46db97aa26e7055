"""What a page says in words follows from the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from build_records import make_record

from lightning_adv2.report.html.run_page import run_sections
from lightning_adv2.results import BatchRecord
from report.runs import make_run


def texts(folder: Path, joint: int, noise: int) -> tuple[str, str]:
    """Summary and legend of a run in which so many of 16 pixels of the map are left."""
    record = make_record(0, ["a", "b"])
    record.benign_map = record.target_map = torch.ones(2, 1, 4, 4)
    for attack, left in zip(record.attacks, (noise, 0, joint), strict=True):
        attack.adv_map = (torch.arange(16) < left).float().view(1, 1, 4, 4).repeat(2, 1, 1, 1)
    shown = {section.title: section for section in run_sections(make_run(folder, [record]))}
    (table,) = shown["Results"].blocks
    return shown["Summary"].text, " ".join(table.all_notes)


def test_adv2_beside_the_noise(tmp_path: Path) -> None:
    above, _ = texts(tmp_path / "above", joint=12, noise=4)
    below, _ = texts(tmp_path / "below", joint=4, noise=12)
    assert "read ADV2's between that and 1" in above
    assert "read ADV2's" not in below
    assert "ADV2 leaves no more of the map than noise does" in below
    assert "under 1 interpreter (" in above


def test_an_attack_is_told_by_its_role_whatever_its_name(tmp_path: Path) -> None:
    """Of several of a kind the first; the controls by theirs."""
    record = make_record(0, ["a", "b"])
    noise, plain, joint = record.attacks
    plain.attack, joint.attack = "mine", "mine-eps4"
    asked = replace(noise, attack="asked", threat_model="none")
    later = replace(joint, attack="mine-eps8")
    record.attacks = [noise, asked, joint, later, plain]
    sections = {section.title: section for section in run_sections(make_run(tmp_path, [record]))}
    (told,) = [text for text in sections["Summary"].text.split("\n\n") if text.startswith("cam: ")]
    places = [told.index(part) for part in ("MINE (fast) reaches", "MINE-EPS4 (fast) reaches", "only explained for",
                                            "under uniform noise of", "MINE-EPS4's between")]  # fmt: skip
    assert places == sorted(places)
    assert "EPS8" not in told
    assert "MINE aims at the class alone, MINE-EPS4 at class and map." in sections["Gallery"].text


def test_green_only_where_something_is_green(tmp_path: Path) -> None:
    assert "green" in texts(tmp_path / "some", joint=12, noise=12)[1]
    assert "green" not in texts(tmp_path / "none", joint=4, noise=12)[1]


def summary_of(folder: Path, record: BatchRecord) -> str:
    (section,) = (one for one in run_sections(make_run(folder, [record])) if one.title == "Summary")
    return section.text


def nearly_kept(joint: float, noise: float) -> BatchRecord:
    """Maps that all keep their region; so far from the target map, by L1, are ADV2's and noise's."""
    record = make_record(0, ["a", "b"])
    record.benign_map = record.target_map = torch.ones(2, 1, 4, 4)
    for attack, moved in zip(record.attacks, (noise, 0.9, joint), strict=True):
        attack.adv_map = torch.full((2, 1, 4, 4), 1 - moved)
    return record


def test_where_both_leave_all_of_the_map_the_l1_tells(tmp_path: Path) -> None:
    less = summary_of(tmp_path / "less", nearly_kept(joint=0.001, noise=0.012))
    assert (
        "ADV2 and noise leave nearly all of the map, and ADV2 changes it less than noise (L1 0.001, noise 0.012)"
        in less
    )
    assert "no more of the map" not in less
    more = summary_of(tmp_path / "more", nearly_kept(joint=0.3, noise=0.012))
    assert "ADV2 changes it no less than noise (L1 0.300, noise 0.012)" in more
    assert "read ADV2's" not in less + more


PIXELS = "Linf 8.0/255 (PGD: Linf 9.0/255, ADV2: Linf 7.0/255)"
MOVED = "Linf 8.0/255 (PGD: Linf 9.0/255, STADV-ADV2: 0.62 px)"


@pytest.mark.parametrize(
    ("levels", "change", "told"),
    [
        ((8, 9, 7), {}, PIXELS),
        ((8, 8, 8), {}, "the same size (Linf 8.0/255)"),
        ((8, 9, 7), {"attack": "stadv-adv2", "unit": "px", "size": torch.tensor([0.5, 0.75])}, MOVED),
    ],
)
def test_noise_and_attacks_have_the_sizes_that_they_have(
    tmp_path: Path, levels: tuple[int, ...], change: dict[str, Any], told: str
) -> None:
    record = nearly_kept(joint=0.001, noise=0.012)
    record.images = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    for attack, moved in zip(record.attacks, levels, strict=True):
        attack.adv_images = record.images + moved
    for name, value in change.items():
        setattr(record.attacks[2], name, value)
    text = summary_of(tmp_path, record)
    assert f"under uniform noise of {told} it is 1.00" in text
    assert ("nearly all of the map" in text) != bool(change), "pixels that moved are not compared with noise"


def test_a_mean_says_over_how_many_images_it_is(tmp_path: Path) -> None:
    record = make_record(0, [f"{i}" for i in range(16)])
    record.benign_map = record.target_map = torch.zeros(16, 1, 4, 4)
    record.target_map[:3] = 1
    for attack in record.attacks:
        attack.adv_map = torch.zeros(16, 1, 4, 4)
    text = summary_of(tmp_path, record)
    assert text.count("0.00 over the 3 of 16 images whose maps are not both empty") == 3, "PGD's, ADV2's and noise's"
    record.target_map[:] = 1
    assert "not both empty" not in summary_of(tmp_path / "all", record)
