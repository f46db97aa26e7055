from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from build_records import NAMES, make_record
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lightning_adv2.report import figures, run_figures, write_figures
from lightning_adv2.report.bars import Metric, grouped_bars
from lightning_adv2.report.figures import amplified, map_sheet, overlay
from lightning_adv2.report.table import Column
from lightning_adv2.results import summarize
from lightning_adv2.results.summary import Row

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
    paths = write_figures(tmp_path / "figures", lambda: records, summarize(records, NAMES), CLASSES)
    assert [path.name for path in paths] == ["agreement.png", "gallery.png", "convergence.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        assert_drawn(path)


def test_figures_of_several_interpreters(tmp_path: Path) -> None:
    records = [
        make_record(i, [f"{i}{j}" for j in range(3)], interpreter=name, target="patch", seed=seed)
        for seed, name in enumerate(("cam", "rts"))
        for i in range(2)
    ]
    paths = write_figures(tmp_path, lambda: iter(records), summarize(records, NAMES), CLASSES)
    own = [f"{name}/{kind}.png" for name in ("cam", "rts") for kind in ("gallery", "convergence")]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["agreement.png", *own, "overview.png"]
    for path in paths:
        assert_drawn(path)


def test_the_overview_shows_what_all_interpreters_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the images that every interpreter could explain, that on which ADV2 gains most over PGD."""
    cam = make_record(0, ["a", "b", "c"], interpreter="cam")
    rts = make_record(0, ["b", "c"], interpreter="rts")
    for record in (cam, rts):
        record.target_map[:] = 1
        for attack, level in zip(record.attacks[1:], (0.0, 1.0), strict=True):
            attack.adv_map[:] = level
    rts.attacks[2].adv_map[0] = 0  # of b ADV2 loses the map under the second interpreter
    shown: list[str] = []
    original = run_figures.overview
    monkeypatch.setattr(run_figures, "overview", lambda r, i, *rest: shown.append(i) or original(r, i, *rest))
    write_figures(tmp_path, lambda: [cam, rts], summarize([cam, rts], NAMES), CLASSES)
    assert shown == ["c"]
    rts.image_id[:] = ["x", "y"]
    paths = write_figures(tmp_path / "none", lambda: [cam, rts], summarize([cam, rts], NAMES), CLASSES)
    assert "overview.png" not in [path.name for path in paths], "no image in common"


def test_another_target_map_has_its_column() -> None:
    record = make_record(0, ["a", "b"], target="patch")
    figure = run_figures.gallery(record, run_figures.shown_attacks(record), CLASSES, "title")
    titles = [axis.get_title() for axis in figure.axes[:8]]
    assert titles[2] == "target map: patch"
    (drawn,) = figure.axes[2].get_images()
    assert np.array_equal(drawn.get_array(), overlay(record.images[0], record.target_map[0]))


def test_figures_without_a_trace_or_valid_images(tmp_path: Path) -> None:
    record = make_record(0, ["a"], trace=False)
    for attack in record.attacks:
        attack.valid[0] = False
    paths = write_figures(tmp_path, lambda: [record], summarize([record], NAMES), CLASSES)
    assert [path.name for path in paths] == ["agreement.png", "gallery.png"]


def test_figures_when_no_image_was_attacked(tmp_path: Path) -> None:
    record = make_record(0, [], ["wrong"])
    record.attacks = []
    write_figures(tmp_path, lambda: [record], summarize([record], NAMES), CLASSES)


def test_gallery_shows_at_most_so_many_rows() -> None:
    record = make_record(0, [str(i) for i in range(12)])
    shown = [attack for attack in record.attacks if attack.schedule != "control"]
    figure = run_figures.gallery(record, shown, CLASSES, "title", rows=5)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 5 * 7
    titles = [axis.get_title() for axis in figure.axes[:7]]
    assert titles[0].startswith("benign: ")
    assert "IoU" in titles[3]
    assert titles[6] == "perturbation x10"
    assert all(len(line) <= 22 for title in titles for line in title.splitlines())


def test_bars_show_the_rows() -> None:
    rows = summarize([make_record(0, ["a", "b"])], NAMES).rows
    other = [row | {"interpreter": "rts", "iou": 0.25, "l1": 0.5} for row in rows]
    figure = run_figures.bars([*rows, *other])
    iou, _ = figure.axes
    heights = sorted(float(patch.get_height()) for patch in iou.patches)
    assert heights == pytest.approx(sorted([row["iou"] for row in rows] + [0.25] * 3))
    assert [label.get_text() for label in iou.get_xticklabels()] == ["CAM", "RTS"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["noise", "pgd-fast", "adv2-fast"]


@pytest.mark.parametrize(("interpreters", "attacks", "numbers"), [(1, 6, True), (3, 2, True), (8, 6, False)])
def test_bars_stay_readable(interpreters: int, attacks: int, numbers: bool) -> None:
    """No bar's number overlaps another bar's, no two attacks look alike, and everything is on the page."""
    names = ["noise", "target_class", "pgd", "adv2", "adv2-b", "stadv", "stadv-b", "x"][: attacks + 2]
    rows = [
        {
            "interpreter": f"interpreter{i}"[-9:],
            "attack": name,
            "schedule": "fast",
            "iou": 0.5,
            "l1": 0.25,
            "target": "a",
        }
        for i in range(interpreters)
        for name in names
    ]
    figure = run_figures.bars(rows)
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert len(boxes) == (len(rows) if numbers else 0)
        ticks = [label.get_window_extent() for label in axis.get_xticklabels()]
        for row in (boxes, ticks):
            ordered = sorted(row, key=lambda box: box.x0)
            assert all(a.x1 <= b.x0 for a, b in pairwise(ordered))
        assert len({tuple(patch.get_facecolor()) for patch in axis.patches}) == len(names)
        assert axis.get_tightbbox().x0 >= 0
    assert figure.legends[0].get_window_extent().y0 >= page.y0
    assert figure.legends[0].get_window_extent().x1 <= page.x1
    assert figure.get_suptitle() == "Map agreement: attacked image and target map: a"


def signed_rows(*values: tuple[float, float, float]) -> list[Row]:
    """A row per value with its interval, each under an attack of its own."""
    names = {"interpreter": "cam", "schedule": "fast", "role": "joint", "n": 16, "empty_x": 0}
    return [
        names | {"attack": f"a{i}", "x": x, "x_low": low, "x_high": high} for i, (x, low, high) in enumerate(values)
    ]


@pytest.mark.parametrize(
    "values",
    [
        [(-0.02, -0.5, 0.4), (0.01, -0.1, 0.9)],
        [(-0.002, -0.004, -0.001), (-0.001, -0.003, 0.0)],
        [(0.3, 0.1, 2.0)],
        [(-3.0, -3.0, -3.0), (1.0, 1.0, 1.0)],
        [(0.0, 0.0, 0.0)],
    ],
)
@pytest.mark.parametrize("empty", [0, 14])
def test_bars_and_intervals_are_whole_and_so_are_their_numbers(
    values: list[tuple[float, float, float]], empty: int
) -> None:
    rows = [row | {"empty_x": empty} for row in signed_rows(*values)]
    figure = grouped_bars(rows, [Metric(Column("x", "change", "+.4f"), limit=1.05)], "title")
    FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    bottom, top = axis.get_ylim()
    for x, low, high in values:
        assert bottom <= min(0, low) <= max(0, high) <= top
        assert bottom < x or x == 0
    if all(high <= 1.05 for _, _, high in values):
        assert top == 1.05
    texts = [text.get_text() for text in axis.texts]
    assert texts == [f"{x:+.4f}" + "\nn=2" * bool(empty) for x, _, _ in values], "in the column's format"
    frame = axis.get_window_extent()
    for text, (x, _, _) in zip(axis.texts, values, strict=True):
        assert text.get_visible()
        assert text.get_window_extent().y0 >= frame.y0, "not over the names below the axis"
        assert text.get_window_extent().y1 <= frame.y1 or (x >= 0 and top == 1.05)


def test_bars_of_a_scaled_column_have_the_scale_of_their_axis() -> None:
    figure = grouped_bars(signed_rows((0.02, 0.01, 0.03)), [Metric(Column("x", "x255", ".1f", 255))], "title")
    (axis,) = figure.axes
    assert [patch.get_height() for patch in axis.patches] == [pytest.approx(5.1)]
    assert [text.get_text() for text in axis.texts] == ["5.1"]
    assert axis.get_ylim()[1] >= 0.03 * 255


def test_mean_traces_weigh_images_not_batches() -> None:
    records = [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])]
    curves = summarize(records, NAMES).traces["cam"]
    assert list(curves) == ["adv2-fast"]
    joined = torch.cat([record.attacks[2].trace["l1"] for record in records], dim=1)
    assert joined.shape == (5, 4)
    assert curves["adv2-fast"]["l1"] == pytest.approx(joined.double().mean(1).tolist(), rel=1e-12)


def test_mean_traces_leave_out_what_is_not_defined_not_valid_or_there_twice() -> None:
    record = make_record(0, ["a", "b", "c"])
    attack = record.attacks[2]
    attack.trace = {"iou": torch.tensor([[0.25, float("nan"), 0.5], [float("nan")] * 3, [0.25, 0.75, 0.5]])}
    attack.valid[2] = False
    found = summarize([record, record], NAMES).traces["cam"]["adv2-fast"]["iou"]
    assert found == pytest.approx([0.25, float("nan"), 0.5], nan_ok=True)


def test_map_sheet(tmp_path: Path) -> None:
    record = make_record(0, [str(i) for i in range(6)])
    figure = map_sheet(record.images, record.benign_map, record.image_id, limit=5)
    assert len(figure.axes) == 16
    assert_drawn(figures.save(figure, tmp_path / "new" / "maps.png"))
