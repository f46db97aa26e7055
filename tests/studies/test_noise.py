from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from cases import lattice_images, small_classifier
from lab import idls, shapes, short_attacks, trainer, untrained_rts, victim
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.noise import add_noise, find_level
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.report.figures import overlay
from lightning_adv2.report.findings import Findings, read_findings
from lightning_adv2.results.means import OVER
from lightning_adv2.results.records import to_uint8
from lightning_adv2.studies import NoiseEvaluation
from lightning_adv2.studies.noise import maps
from lightning_adv2.studies.noise.measure import Correct, choose, count_wrong, find_levels, noise_rows
from lightning_adv2.types import Interpretation

SIDE, CPU = 12, torch.device("cpu")
RATES, KINDS = (0.03, 0.30), ("normal", "uniform")


class Halfspace(Classifier):
    """Two classes on either side of a plane through mid grey, with a normal of length 1."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__((0.0,), (1.0,))
        normal = torch.randn(SIDE * SIDE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        self.register_buffer("normal", normal / normal.norm())

    def margin(self, images: Tensor) -> Tensor:
        return (images.double() - 0.5).flatten(1) @ self.normal

    def stages(self) -> list[Any]:
        return []

    def forward_head(self, features: Tensor) -> Tensor:
        return torch.stack([self.margin(features), torch.zeros(len(features), dtype=torch.float64)], dim=1)


class Itself(Interpreter):
    """The map is the image."""

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        return Interpretation(classifier(images), images.mean(1, keepdim=True))


class ClassOnly(Interpreter):
    """The map depends on the class asked for and on nothing else: the left half for class 0, all for class 1."""

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        shown = torch.zeros(len(images), 1, 4, 4)
        shown[..., :2] = 1
        shown[class_idx == 1] = 1
        return Interpretation(classifier(images), shown)


class NotANumber(ClassOnly):
    """And where the pixel in the corner is brighter than mid grey, NaN."""

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        result = super().forward(classifier, images, class_idx, state)
        result.attribution_map[images[:, 0, 0, 0] > 0.502] = torch.nan
        return result


def grey_images(count: int) -> list[dict[str, Any]]:
    """Near mid grey, where small noise is never cut off at 0 or 1; every fifth label is wrong."""
    generator, classifier = torch.Generator().manual_seed(7), Halfspace()
    images = (127.5 + 12 * torch.randn(count, 1, SIDE, SIDE, generator=generator)).round() / 255
    label = (classifier.margin(images) <= 0).long()
    label[::5] = 1 - label[::5]
    return [{"images": images[i], "label": label[i], "image_id": f"grey/{i}"} for i in range(count)]


def right(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [image for i, image in enumerate(images) if i % 5]


def run(folder: Path, module: IDLS, images: list[dict[str, Any]], batch_size: int = 16, **kwargs: Any) -> Any:
    evaluation = NoiseEvaluation(**kwargs)
    loop = trainer(folder, evaluation)
    loop.test(module, DataLoader(images, batch_size=batch_size), verbose=False)  # type: ignore[arg-type]
    study = read_findings(folder, "noise")
    assert study is not None
    assert study.findings == evaluation.findings
    return {"levels": study.findings.details["levels"], "rows": study.findings.rows}


def expected_share(margin: Tensor, kind: str, level: float) -> float:
    """Gaussian noise crosses the plane with probability Phi(-margin / sigma); 144 uniform values nearly so."""
    sigma = math.hypot(level if kind == "normal" else level / math.sqrt(3), 1 / 255 / math.sqrt(12))  # and rounding
    return sum(NormalDist().cdf(-m / sigma) for m in margin.abs().tolist()) / len(margin)


def mean_movement(kind: str, level: float) -> float:
    """Of one pixel on a grey level, rounded back to grey levels: E|K| is the sum over k > 0 of P(|K| >= k)."""
    grey = 255 * level
    if kind == "normal":
        total = sum(2 * (1 - NormalDist(0, grey).cdf(k - 0.5)) for k in range(1, 200))
    else:
        total = sum(max(0.0, (grey - (k - 0.5)) / grey) for k in range(1, 200))
    return total / 255


def test_level_is_that_of_the_closed_form() -> None:
    images, count = right(grey_images(1500)), 1200
    classifier = Halfspace()
    pixels = torch.stack([image["images"] for image in images])
    part = Correct(
        0, [i["image_id"] for i in images], torch.stack([i["label"] for i in images]), (pixels * 255).round().byte()
    )
    asked: list[tuple[str, float]] = []

    def wrong(kind: Any, level: float) -> int:
        asked.append((kind, level))
        return count_wrong(classifier, [part], kind, level, 0, CPU)

    levels = find_levels(KINDS, RATES, count, wrong)  # type: ignore[arg-type]
    assert [(row["kind"], row["rate"]) for row in levels] == [(kind, rate) for kind in KINDS for rate in RATES]
    assert len(asked) == len(set(asked)) < 70
    margin = classifier.margin(pixels)
    for row in levels:
        assert row["images"] == count
        # By its own count it is the rate, to within the last halving.
        assert row["rate"] <= row["rate_reached"] == row["misclassified"] / count <= row["rate"] + 0.01
        # By the closed form it is so to within four standard deviations of the mean of so many draws.
        spread = 4 * math.sqrt(row["rate"] * (1 - row["rate"]) / count)
        assert expected_share(margin, row["kind"], row["level"]) == pytest.approx(row["rate"], abs=spread)
        assert expected_share(margin, row["kind"], 2 * row["level"]) > row["rate"] + spread, "this could fail"


def test_the_lowest_level_is_found() -> None:
    for threshold in (0.001, 0.031, 0.5, 3.9):
        tried: list[float] = []

        def count(level: float, threshold: float = threshold, tried: list[float] = tried) -> int:
            tried.append(level)
            return 5 if level >= threshold else 4

        assert threshold <= find_level(count, 5) <= threshold * 1.008 + 2.0**-15
        assert len(tried) < 20
    assert find_level(lambda level: 4, 5) == 4.0


def test_noise_is_of_the_image_and_8_bit() -> None:
    images = torch.rand(6, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    names = [str(i) for i in range(6)]
    for kind in KINDS:
        both = add_noise(images, names, kind, 0.1)  # type: ignore[arg-type]
        alone = add_noise(images[4:5], ["4"], kind, 0.1)  # type: ignore[arg-type]
        assert torch.equal(both[4:5], alone)
        assert torch.equal(both, both.clamp(0, 1))
        assert torch.equal((both * 255).round() / 255, both)
        assert not torch.equal(alone, add_noise(images[4:5], ["4"], kind, 0.1, seed=1))  # type: ignore[arg-type]
        # The direction is fixed: where nothing is cut off, twice the level is twice the noise.
        grey = torch.full((1, 3, 40, 40), 0.5)
        once, twice = (add_noise(grey, ["4"], kind, level) - 0.5 for level in (0.05, 0.1))  # type: ignore[arg-type]
        assert float((twice - 2 * once).abs().max()) <= 1.6 / 255
        expected = 0.1 if kind == "normal" else 0.1 / math.sqrt(3)
        assert float(twice.std()) == pytest.approx(expected, rel=0.05)
        assert float(twice.abs().max()) > 0.25 if kind == "normal" else float(twice.abs().max()) <= 0.1 + 0.5 / 255


def test_maps_move_as_on_paper(tmp_path: Path) -> None:
    """The image itself moves by the noise's mean absolute value, what ignores the image not at all."""
    content = run(tmp_path, IDLS(Halfspace(), [Itself(), ClassOnly()]), grey_images(200))
    levels = {(row["kind"], row["rate"]): row for row in content["levels"]}
    assert [(row["interpreter"], row["kind"], row["rate"]) for row in content["rows"]] == [
        (name, kind, rate) for name in ("itself", "classonly") for kind in KINDS for rate in RATES
    ]
    for row in content["rows"]:
        level = levels[row["kind"], row["rate"]]
        assert (row["n"], row["invalid"], level["images"]) == (160, 0, 160)
        if row["interpreter"] == "itself":
            assert row["l1"] == pytest.approx(mean_movement(row["kind"], level["level"]), rel=0.03)
            assert (row["l1_predicted"], row["iou_predicted"]) == (row["l1"], row["iou"]), "whatever class is asked for"
            assert 0 < row["iou"] < 1
        else:
            assert (row["l1"], row["iou"]) == (0, 1)
            # Another class is another map: half of the pixels, on every image that is now misclassified.
            assert row["l1_predicted"] == pytest.approx(level["rate_reached"] / 2)
            assert row["iou_predicted"] == pytest.approx(1 - level["rate_reached"] / 2)
    assert (tmp_path / "figures" / "noise.png").stat().st_size > 5000


def test_rows_are_those_of_the_images_one_by_one(tmp_path: Path) -> None:
    images = grey_images(31)
    content = run(tmp_path, IDLS(Halfspace(), Itself()), images, seed=3)
    for level, row in zip(content["levels"], content["rows"], strict=True):
        moved, wrong = [], 0
        for image in right(images):
            noisy = add_noise(image["images"][None], [image["image_id"]], level["kind"], level["level"], seed=3)
            wrong += int(Halfspace()(noisy).argmax(1) != image["label"])
            moved.append(float((noisy - image["images"]).abs().double().mean()))
        assert wrong == level["misclassified"] >= level["rate"] * 24
        assert wrong == math.ceil(level["rate"] * 24), "24 images: 3% is 1 of them, 30% are 8"
        assert level["rate_reached"] == wrong / 24
        assert row["l1"] == pytest.approx(sum(moved) / 24, rel=1e-5)


def test_batches_do_not_matter_and_the_limit_takes_the_first(tmp_path: Path) -> None:
    images = grey_images(40)
    content = run(tmp_path / "16", IDLS(Halfspace(), Itself()), images, max_images=20)
    for batch_size in (3, 40):
        other = run(tmp_path / str(batch_size), IDLS(Halfspace(), Itself()), images, batch_size, max_images=20)
        assert other["levels"] == content["levels"]
        for one, two in zip(other["rows"], content["rows"], strict=True):
            assert one == pytest.approx(two)
    alone = run(tmp_path / "alone", IDLS(Halfspace(), Itself()), images[:25], max_images=None)
    assert alone["levels"] == content["levels"]
    twice = run(tmp_path / "twice", IDLS(Halfspace(), Itself()), images + images[:4], max_images=None)
    assert twice["levels"][0]["images"] == 32, "an image that comes twice counts once"


def test_choose() -> None:
    keys = [(2, 0, "c"), (0, 1, "b"), (1, 0, "b"), (0, 0, "a"), (3, 0, "d")]
    assert choose(keys, None) == {(0, 0, "a"), (0, 1, "b"), (2, 0, "c"), (3, 0, "d")}
    assert choose(keys, 3) == choose(reversed(keys), 3) == {(0, 0, "a"), (0, 1, "b"), (2, 0, "c")}


def test_nan_is_left_out_and_counted(tmp_path: Path) -> None:
    images = grey_images(60)
    content = run(tmp_path, IDLS(Halfspace(), NotANumber()), images, kinds=("normal",), rates=(0.3,))
    (level,), (row,) = content["levels"], content["rows"]
    fine = 0
    for image in right(images):
        noisy = add_noise(image["images"][None], [image["image_id"]], "normal", level["level"])
        fine += int(image["images"][0, 0, 0] <= 0.502 and noisy[0, 0, 0, 0] <= 0.502)
    assert 0 < fine < 48
    assert (row["n"], row["invalid"]) == (fine, 48 - fine)
    assert (row["l1"], row["iou"]) == (0, 1)


class Deaf(Halfspace):
    """Says class 0 whatever it sees."""

    def margin(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), dtype=torch.float64)


def test_a_rate_that_cannot_be_reached(tmp_path: Path) -> None:
    images = [image | {"label": torch.tensor(0)} for image in grey_images(10)]
    content = run(tmp_path, IDLS(Deaf(), Itself()), images, kinds=("normal",), rates=(0.3,))
    assert content["levels"] == [
        {"kind": "normal", "rate": 0.3, "level": 4.0, "images": 10, "misclassified": 0, "rate_reached": 0.0}
    ]
    assert content["rows"][0]["n"] == 10
    none = run(tmp_path / "none", IDLS(Deaf(), Itself()), [image | {"label": torch.tensor(1)} for image in images])
    assert {(row["level"], row["images"], row["rate_reached"]) for row in none["levels"]} == {(None, 0, None)}
    assert {(row["n"], row["l1"], row["iou_predicted"]) for row in none["rows"]} == {(0, None, None)}
    assert not (tmp_path / "none" / "figures").exists()


def test_table_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger, evaluation = CSVLogger(tmp_path / "log", name="", version=""), NoiseEvaluation()
    loop = trainer(tmp_path, evaluation, logger=logger)
    loop.validate(idls("cam", "rts"), shapes(num_val=14), verbose=False)
    out = capsys.readouterr().out
    assert "Sensitivity to noise" in out
    assert out.count("cam") >= 4
    logged = {key: float(value) for key, value in loop.logged_metrics.items() if "noise" in key}
    assert logged == {
        f"val/noise/{row['kind']}-{row['rate']:g}/{row['interpreter']}/{name}": pytest.approx(row[name], rel=1e-6)
        for row in evaluation.rows
        for name in ("l1", "iou", "l1_predicted", "iou_predicted")
    }
    assert "val/noise/normal-0.03/cam/l1" in logged
    assert "val/noise/uniform-0.3/rts/iou_predicted" in logged


def test_nothing_during_fit(tmp_path: Path) -> None:
    evaluation = NoiseEvaluation()
    callbacks: list[pl.Callback] = [AttackEvaluation(short_attacks("rts"), num_images=2), evaluation]
    loop = trainer(tmp_path, *callbacks, max_steps=2, max_epochs=-1, val_check_interval=2, num_sanity_val_steps=1)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    assert list(tmp_path.rglob("results.json")), "there was a validation"
    assert not list(tmp_path.rglob("noise.json"))
    assert not evaluation.rows


def test_arguments() -> None:
    for rates in ((), (0.0,), (0.3, 0.3), (1.1,)):
        with pytest.raises(ValueError, match=r"rates=.*: one or more different shares in \(0, 1\]"):
            NoiseEvaluation(rates)
    for kinds in ((), ("normal", "normal"), ("salt",)):
        with pytest.raises(ValueError, match=r"kinds=.*: one or more of normal, uniform"):
            NoiseEvaluation(kinds=kinds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_images=0"):
        NoiseEvaluation(max_images=0)


def test_images_whose_two_maps_are_both_empty_are_in_no_mean_of_the_iou() -> None:
    levels = [{"kind": "normal", "rate": 0.5, "level": 0.1, "images": 2, "misclassified": 1, "rate_reached": 0.5}]
    rows = noise_rows(levels, [{("rts", 0): [(0.25, math.nan, 0.5, 0.5), (0.25, 0.5, 0.5, 0.5)]}])
    assert [(row["empty"], row["empty_predicted"], row["iou"]) for row in rows] == [(1, 0, 0.5)]
    (table,) = NoiseEvaluation.tables(findings := Findings(rows))
    assert "0.500 (1)" in table.cells[0]
    assert sum("(1)" in cell for cell in table.cells[0]) == 1
    assert f"{OVER}." in table.all_notes
    figure = NoiseEvaluation.figure(findings)
    assert figure is not None
    assert "0.50\nn=1" in [text.get_text() for axis in figure.axes for text in axis.texts]


def test_only_images_that_the_noise_misleads_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(maps, "grid", lambda rows, title: drawn.extend(rows) or object())
    classifier, images = small_classifier(), lattice_images(8, seed=4)
    label = classifier(images).argmax(1)
    part = Correct(0, [f"i{k}" for k in range(8)], label, to_uint8(images))
    levels = [{"kind": "uniform", "level": 0.9, "misclassified": 3, "rate_reached": 0.4}]
    names = list("abcdefgh")
    assert maps.noise_maps(classifier, [CAM()], [part], levels, names, 0, CPU, most=2) is not None
    assert 1 <= len(drawn) <= 2
    for row in drawn:
        assert len(row) == 4
        (clean, said, _), (noisy, now, _), (benign, _, _), _ = row
        assert not np.array_equal(clean, noisy)
        assert now != f"noisy: {said}"
        i = next(k for k in range(8) if np.array_equal(part.images[k].permute(1, 2, 0), clean))
        wanted = CAM().explain(classifier, images[i : i + 1], label[i : i + 1]).attribution_map[0]
        assert np.array_equal(benign, overlay(part.images[i], wanted))
    still = [levels[0] | {"level": 0.0}]
    assert maps.noise_maps(classifier, [CAM()], [part], still, names, 0, CPU) is None
