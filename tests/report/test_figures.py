from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lightning_adv2.report import figures, summarize, write_figures
from lightning_adv2.report.figures import amplified, map_sheet, overlay
from lightning_adv2.report.results import mean_traces
from report.build import NAMES, make_record

CLASSES = ("disk", "a class with a very long name that does not fit", "star")


def assert_drawn(path: Path) -> None:
    """A PNG that shows something: many colours, not one."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, "blank"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_overlay_ends_in_the_colormap(value: float) -> None:
    image, full = torch.full((3, 6, 6), 51, dtype=torch.uint8), torch.full((1, 3, 3), value)
    colour = np.array(matplotlib.colormaps["turbo"](value)[:3])
    opaque = overlay(image, full, strength=1.0)
    assert opaque.shape == (6, 6, 3)
    assert opaque.dtype == np.uint8
    assert np.array_equal(opaque, np.broadcast_to((colour * 255).round().astype(np.uint8), (6, 6, 3)))
    mixed = 255 * (0.45 * 0.2 + 0.55 * colour)
    assert np.abs(overlay(image, full) - mixed).max() <= 0.5 + 1e-6
    assert np.array_equal(overlay(image, full, strength=0.0), np.full((6, 6, 3), 51, np.uint8))


def test_overlay_of_grey_images_and_large_maps() -> None:
    grey = torch.randint(256, (1, 6, 6), dtype=torch.uint8)
    rgb = grey.expand(3, 6, 6)
    fine = torch.rand(1, 12, 12)
    assert np.array_equal(overlay(grey, fine), overlay(rgb, fine))


def test_amplified() -> None:
    image = torch.tensor([100, 100, 100, 0, 255], dtype=torch.uint8).view(1, 1, 5).expand(3, 1, 5)
    adv = torch.tensor([100, 107, 93, 255, 0], dtype=torch.uint8).view(1, 1, 5).expand(3, 1, 5)
    found = amplified(adv, image)
    assert found.dtype == np.uint8
    assert found[0, :, 0].tolist() == [128, 198, 58, 255, 0], "ten times, clipped and not wrapped round"
    assert amplified(adv[:1], image[:1]).shape == (1, 5, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_figure_of_a_run(channels: int, tmp_path: Path) -> None:
    records = [make_record(0, ["a", "b", "c"], channels=channels), make_record(1, ["d"], channels=channels)]
    paths = write_figures(tmp_path / "figures", records, summarize(records, NAMES), CLASSES)
    assert [path.name for path in paths] == ["agreement.png", "gallery.png", "convergence.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        assert_drawn(path)


def test_figures_without_a_trace_or_valid_images(tmp_path: Path) -> None:
    record = make_record(0, ["a"], trace=False)
    for attack in record.attacks:
        attack.valid[0] = False
    paths = write_figures(tmp_path, [record], summarize([record], NAMES), CLASSES)
    assert [path.name for path in paths] == ["agreement.png", "gallery.png"]


def test_figures_when_no_image_was_attacked(tmp_path: Path) -> None:
    record = make_record(0, [], ["wrong"])
    record.attacks = []
    write_figures(tmp_path, [record], summarize([record], NAMES), CLASSES)


def test_gallery_shows_at_most_so_many_rows() -> None:
    record = make_record(0, [str(i) for i in range(12)])
    shown = [attack for attack in record.attacks if attack.schedule != "control"]
    figure = figures.gallery(record, shown, CLASSES, "title", rows=5)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 5 * 7
    titles = [axis.get_title() for axis in figure.axes[:7]]
    assert titles[0].startswith("benign: ")
    assert "IoU" in titles[3]
    assert titles[6] == "perturbation x10"
    assert all(len(title) <= 24 for title in titles)


def test_bars_show_the_rows() -> None:
    rows = summarize([make_record(0, ["a", "b"])], NAMES).rows
    other = [row | {"interpreter": "rts", "iou": 0.25, "l1": 0.5} for row in rows]
    iou, l1 = figures.bars([*rows, *other]).axes
    heights = sorted(float(patch.get_height()) for patch in iou.patches)
    assert heights == pytest.approx(sorted([row["iou"] for row in rows] + [0.25] * 3))
    assert [label.get_text() for label in iou.get_xticklabels()] == ["CAM", "RTS"]
    assert [text.get_text() for text in l1.get_legend().get_texts()] == ["noise", "pgd (fast)", "adv2 (fast)"]


def test_mean_traces_weigh_images_not_batches() -> None:
    records = [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])]
    curves = mean_traces(records)
    assert list(curves) == ["adv2-fast"]
    joined = torch.cat([record.attacks[2].trace["l1"] for record in records], dim=1)
    assert joined.shape == (5, 4)
    assert torch.allclose(curves["adv2-fast"]["l1"], joined.mean(1))


def test_map_sheet(tmp_path: Path) -> None:
    record = make_record(0, [str(i) for i in range(6)])
    figure = map_sheet(record.images, record.benign_map, record.image_id, limit=5)
    assert len(figure.axes) == 16
    assert_drawn(figures.save(figure, tmp_path / "new" / "maps.png"))
