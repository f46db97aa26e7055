from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import NUM_TEST, idls, interpreter, shapes, trainer, untrained_rts, victim
from matplotlib import pyplot as plt
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adv2.data import AttackDataModule, ShapesDataModule
from lightning_adv2.functional.localization import boxes_above, thresholds
from lightning_adv2.functional.masking import resize_map
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.metrics.localization import calibrates
from lightning_adv2.models import Classifier
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.report.figures import save
from lightning_adv2.report.findings import read_findings
from lightning_adv2.studies import LocalizationEvaluation
from lightning_adv2.types import Interpretation


class Told(Interpreter):
    """Its map is the mask that it was told of the image, by the image's pixels."""

    def __init__(self, images: Tensor, masks: Tensor) -> None:
        super().__init__()
        self.known = {image.numpy().tobytes(): mask for image, mask in zip(images, masks, strict=True)}

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        shown = torch.stack([self.known[image.numpy().tobytes()].float() for image in images])
        return Interpretation(classifier(images), shown)


def more() -> ShapesDataModule:
    """The images that the victim has seen, and as many that it has not."""
    return shapes(num_test=2 * NUM_TEST)


def told() -> Told:
    dataset = more().dataset("test")
    items = [dataset[i] for i in range(len(dataset))]
    return Told(torch.stack([one["images"] for one in items]), torch.stack([one["mask"] for one in items]))


def content(folder: Path) -> Any:
    return json.loads((folder / "localization.json").read_text())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "localization_images.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Images that the victim gets right, and others."""
    folder = tmp_path_factory.mktemp("localization")
    study = LocalizationEvaluation(examples=2)
    loop = trainer(folder, study)
    loop.test(IDLS(victim(), [CAM(), interpreter("grad"), told()]), more(), verbose=False)
    assert content(folder)["rows"] == study.rows
    return folder, {key: float(value) for key, value in loop.logged_metrics.items()}


def test_what_the_object_itself_scores(finished: Any) -> None:
    folder, _ = finished
    rows = {row["interpreter"]: row for row in content(folder)["rows"]}
    assert list(rows) == ["cam", "grad", "told", "whole image", "central box"]
    assert (rows["told"]["error"], rows["told"]["iou"], rows["told"]["mask_iou"], rows["told"]["pointing"]) == (
        0,
        1,
        1,
        1,
    )
    assert rows["whole image"]["error"] > 0.8
    assert len({row["n"] for row in rows.values()}) == 1


def test_every_image_is_counted(finished: Any) -> None:
    folder, _ = finished
    dataset, classifier = more().dataset("test"), victim()
    right = [
        one["image_id"]
        for one in map(dataset.__getitem__, range(70))
        if int(classifier(one["images"][None]).argmax()) == one["label"]
    ]
    images = content(folder)["settings"]["images"]
    assert 20 < len(right) < 70, "this could fail"
    assert (images["located"], images["misclassified"], images["without_object"]) == (len(right), 70 - len(right), 0)
    assert images["calibration"] == sum(map(calibrates, right))
    assert images["reported"] + images["calibration"] == len(right)
    rows = table(folder)
    assert [row["image_id"] for row in rows] == right * 3
    assert all((row["part"] == "calibration") == calibrates(row["image_id"]) for row in rows)


def test_the_error_comes_from_the_table_and_the_table_from_the_maps(finished: Any) -> None:
    folder, logged = finished
    dataset = more().dataset("test")
    items = {one["image_id"]: one for one in map(dataset.__getitem__, range(70))}
    for name in ("cam", "grad"):
        (row,) = (one for one in content(folder)["rows"] if one["interpreter"] == name)
        own = [one for one in table(folder) if one["interpreter"] == name]
        reported = [one for one in own if one["part"] == "reported"]
        assert row["n"] == len(reported)
        assert row["error"] == pytest.approx(sum(one["correct"] == "0" for one in reported) / len(reported))
        assert logged[f"test/localization/{name}/error"] == pytest.approx(row["error"])
        tried = content(folder)["details"]["candidates"]
        least = min(one["error"] for one in tried if one["interpreter"] == name)
        calibration = [one for one in own if one["part"] == "calibration"]
        assert least == row["calibration_error"] == sum(one["correct"] == "0" for one in calibration) / len(calibration)
        for one in own[:6]:
            item = items[one["image_id"]]
            asked = item["images"][None], torch.tensor([item["label"]])
            shown = interpreter(name).explain(victim(), *asked).attribution_map
            enlarged = resize_map(shown, (32, 32))
            box = boxes_above(enlarged, thresholds(enlarged, row["rule"], [row["alpha"]]))[0, 0].tolist()
            assert [int(one[key]) for key in ("xmin", "ymin", "xmax", "ymax")] == pytest.approx(box, abs=1)


def test_figure_and_page(finished: Any, tmp_path: Path) -> None:
    folder, _ = finished
    assert (folder / "figures" / "localization.png").stat().st_size > 20_000
    study = read_findings(folder, "localization")
    assert study is not None
    (numbers,) = study.tables
    assert [cells[0] for cells in numbers.cells] == ["cam", "grad", "told", "whole image", "central box"]
    assert [numbers.emphasis(row) for row in numbers.rows] == ["", "", "", "faint", "faint"]
    assert "chosen on" in numbers.notes[0]
    assert [path.name for path in study.paths] == [
        "localization.json", "localization.csv", "localization_images.csv", "localization.png"
    ]  # fmt: skip
    bars = LocalizationEvaluation.figure(study.findings)
    assert bars is not None
    (axis,) = bars.axes
    assert len(axis.patches) == 5, "without the networks there are the bars alone"
    shown = plt.imread(folder / "figures" / "localization.png")
    save(bars, tmp_path / "bars.png")
    assert shown.shape[0] > plt.imread(tmp_path / "bars.png").shape[0], "boxes below the bars"


def test_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, LocalizationEvaluation(examples=0)).validate(
        IDLS(victim(), [told()]), AttackDataModule(more(), num_images=None), verbose=False
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "Localisation error" in out
    assert "0.0%" in out
    misclassified = content(tmp_path)["settings"]["images"]["misclassified"]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert misclassified == len(manifest["wrong"]) > 0, "those that the data module passed over"
    assert f"Left out: {misclassified} misclassified" in out


def boxed(*boxes: list[list[float]], **more: Any) -> list[dict[str, Any]]:
    """Images of the test split that the victim gets right, with other boxes."""
    dataset, classifier = shapes().dataset("test"), victim()
    items = [dict(dataset[i]) for i in range(35)]
    right = [one for one in items if int(classifier(one["images"][None]).argmax()) == one["label"]]
    return [
        {key: value for key, value in one.items() if key != "mask"} | {"boxes": torch.tensor(box)} | more
        for one, box in zip(right, boxes, strict=False)
    ]


def test_boxes_that_fill_the_image_and_images_without_any(tmp_path: Path) -> None:
    full, none, small = [[0.0, 0, 32, 31]], [[0.0] * 4], [[3.0, 4, 20, 21]]
    batch = DataLoader(boxed(full, none, small, small, full, small), batch_size=4)  # type: ignore[arg-type]
    trainer(tmp_path, LocalizationEvaluation(max_area=0.95)).test(idls("cam"), batch, verbose=False)
    found = content(tmp_path)["settings"]["images"]
    assert [found[name] for name in ("located", "misclassified", "without_object", "too_large")] == [3, 0, 1, 2]
    assert content(tmp_path)["rows"][0]["mask_iou"] is None, "boxes are no masks"
    trainer(tmp_path, LocalizationEvaluation(max_area=1)).test(idls("cam"), batch, verbose=False)
    assert content(tmp_path)["settings"]["images"]["located"] == 5


def test_where_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    bare = [{key: value for key, value in one.items() if key != "boxes"} for one in boxed([[0.0] * 4])]
    with pytest.raises(ValueError, match="neither 'boxes' nor 'mask'"):
        trainer(tmp_path, LocalizationEvaluation()).test(idls("cam"), DataLoader(bare), verbose=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"calibration": 0.0}, {"calibration": 1.0}, {"max_area": 0.0}, {"examples": -1}])
def test_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LocalizationEvaluation(**wrong)


def test_nothing_during_fit(tmp_path: Path) -> None:
    study = LocalizationEvaluation()
    loop = trainer(tmp_path, study, max_steps=1, max_epochs=-1, val_check_interval=1, num_sanity_val_steps=1)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    assert not study.rows
    assert not list(tmp_path.rglob("localization.json"))
