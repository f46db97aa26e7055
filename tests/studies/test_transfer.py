from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from cases import lattice_images, small_classifier
from lab import attack_data, idls, interpreter, run_python, shapes, short_attacks, trainer, untrained_rts, victim
from torch import Tensor

from lightning_adv2.attacks import ADV2, adv2_cam, pgd
from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.evaluation.attack_batch import attack_batch
from lightning_adv2.interpreters import CAM, Gradient
from lightning_adv2.models import Classifier
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.report.figures import overlay
from lightning_adv2.report.findings import Findings
from lightning_adv2.results import read_records
from lightning_adv2.results.records import to_float
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import TransferEvaluation
from lightning_adv2.studies.transfer import figures
from lightning_adv2.studies.transfer.figures import transfer_maps
from lightning_adv2.studies.transfer.judging import transfer_rows
from lightning_adv2.types import Interpretation
from studies.cases import measured

NAMES = ("cam", "grad")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TransferEvaluation, dict[str, float]]:
    folder, study = tmp_path_factory.mktemp("transfer"), TransferEvaluation()
    loop = trainer(folder, AttackEvaluation(short_attacks()), study)
    loop.test(idls(*NAMES), attack_data(), verbose=False)
    return folder, study, {key: float(value) for key, value in loop.logged_metrics.items()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "transfer.json").read_text())["rows"]


def test_every_pair_of_what_aims_at_a_map(finished: Any) -> None:
    """Not PGD, which ignores it, nor the controls."""
    folder, study, _ = finished
    found = rows(folder)
    assert found == study.rows
    assert [(row["source"], row["interpreter"]) for row in found] == [(s, j) for s in NAMES for j in NAMES]
    assert {(row["attack"], row["schedule"], row["n"]) for row in found} == {("adv2", found[0]["schedule"], 13)}
    assert list(found[0])[:6] == ["source", "attack", "schedule", "role", "interpreter", "n"]
    assert {row["role"] for row in found} == {"joint"}
    for row in found:
        for name in ("l1", "iou"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_the_diagonal_is_the_attacks_own_table(finished: Any) -> None:
    folder, _, _ = finished
    own = {row["interpreter"]: row for row in json.loads((folder / "results.json").read_text())["rows"]
           if row["attack"] == "adv2"}  # fmt: skip
    diagonal = [row for row in rows(folder) if row["source"] == row["interpreter"]]
    assert len(diagonal) == 2
    for row in diagonal:
        for name in ("n", "l1", "iou"):
            assert row[name] == pytest.approx(own[row["source"]][name], rel=1e-12)


def test_other_interpreters_image_by_image(finished: Any) -> None:
    folder, _, _ = finished
    benign = {
        (record.interpreter, name): record.benign_map[i]
        for record in read_records(folder / "records")
        for i, name in enumerate(record.image_id)
    }
    for source, judge in (NAMES, NAMES[::-1]):
        values = []
        for record in read_records(folder / "records" / source):
            (attack,) = (one for one in record.attacks if one.attack == "adv2")
            for i, name in enumerate(record.image_id):
                image, classifier = attack.adv_images[i : i + 1].float() / 255, victim()
                shown = interpreter(judge).explain(classifier, image, classifier(image).argmax(1)).attribution_map
                values.append(measured(shown, benign[judge, name]))
        (row,) = (row for row in rows(folder) if (row["source"], row["interpreter"]) == (source, judge))
        assert row["l1"] == pytest.approx(sum(l1 for l1, _ in values) / 13, rel=1e-4)
        assert row["iou"] == pytest.approx(sum(iou for _, iou in values) / 13, abs=1e-3)
    by_pair = {(row["source"], row["interpreter"]): row["iou"] for row in rows(folder)}
    assert by_pair["cam", "cam"] != by_pair["cam", "grad"]


def test_figure_and_log(finished: Any) -> None:
    folder, study, logged = finished
    assert (folder / "figures" / "transfer.png").stat().st_size > 5000
    schedule = study.rows[0]["schedule"]
    assert {key: value for key, value in logged.items() if "transfer" in key} == {
        f"test/transfer/{row['source']}/adv2-{schedule}/{row['interpreter']}/{name}": pytest.approx(row[name], rel=1e-6)
        for row in study.rows
        for name in ("l1", "iou")
    }


class Blind(Gradient):
    """Explains nothing where the pixel in the corner is darker than the value."""

    name = "blind"

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        result = super().forward(classifier, images, class_idx, state)
        dark = (images.detach()[:, :, 0, 0].mean(1) < self.value).view(-1, 1, 1, 1)
        result.attribution_map = torch.where(dark, torch.full_like(result.attribution_map, 0.3), result.attribution_map)
        return result

    value = 0.0


def test_only_images_that_both_can_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corners = [item["images"][:, 0, 0].mean() for item in map(shapes().dataset("test").__getitem__, range(35))]
    blind = Blind()
    blind.value = float(torch.stack(corners).median())
    attacks = AttackEvaluation([pgd(steps=3), adv2_cam(steps=4)], target=RandomPatch(), max_invalid=1)
    trainer(tmp_path, attacks, TransferEvaluation()).test(
        IDLS(victim(), [CAM(), blind]), attack_data(num_images=8), verbose=False
    )
    counts = {(row["source"], row["interpreter"]): row["n"] for row in rows(tmp_path)}
    seen = sum(len(record.image_id) for record in read_records(tmp_path / "records" / "blind"))
    assert 0 < seen < 8
    assert counts == {("cam", "cam"): 8, ("cam", "blind"): seen, ("blind", "cam"): seen, ("blind", "blind"): seen}
    # Against the benign map, whatever the attack aimed at.
    own = {row["interpreter"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]
           if row["attack"] == "adv2"}  # fmt: skip
    for row in rows(tmp_path):
        if row["source"] == row["interpreter"]:
            assert row["l1"] == pytest.approx(own[row["source"]]["l1_benign"], rel=1e-12)
            assert row["l1"] != pytest.approx(own[row["source"]]["l1"])
    out = capsys.readouterr().out
    assert "adv2-fast: map IoU" in out
    assert "by blind" in out


HEAD = {"attack": "adv2", "schedule": "fast", "role": "joint"}
ENDS = ("l1_low", "l1_high", "iou_low", "iou_high")


def seen(order: tuple[int, int, int], source: str, judge: str, batch: int, image: str, *values: float) -> Row:
    l1, iou = values or (None, None)
    place = {"order": (*order, batch, image), "image_id": image or None}
    return {"source": source, **HEAD, "interpreter": judge, **place, "l1": l1, "iou": iou}


def test_rows() -> None:
    """An image that comes twice counts once; a group without images has a row; the order does not show."""
    pair, other = ((1, 3, 0), "b", "a"), ((0, 3, 1), "a", "b")
    images = [
        seen(*pair, 1, "y", 0.4, 0.5), seen(*pair, 1, "x", 0.9, 0.9), seen(*pair, 0, "x", 0.2, 1.0),
        seen(*pair, 0, ""), seen(*other, 0, ""),
    ]  # fmt: skip
    assert transfer_rows(images) == transfer_rows(images[::-1]) == [
        {"source": "a", **HEAD, "interpreter": "b", "n": 0, "empty": 0, "empty_l1": 0, "l1": None, "iou": None}
        | dict.fromkeys(ENDS),
        {"source": "b", **HEAD, "interpreter": "a", "n": 2, "empty": 0, "empty_l1": 0, "l1": pytest.approx(0.3),
         "iou": 0.75,
         "l1_low": pytest.approx(0.2), "l1_high": pytest.approx(0.4), "iou_low": 0.5, "iou_high": 1.0},
    ]  # fmt: skip


def test_a_matrix_beside_the_rows() -> None:
    """The IoUs of each attack, by source and explaining interpreter; a pair without an IoU has none."""
    rows = [{"source": s, **HEAD, "interpreter": j, "n": 2, "empty": 0, "l1": 0.1, "iou": iou}
            for s, j, iou in (("a", "a", 0.9), ("a", "b", None), ("b", "a", 0.2), ("b", "b", 0.8))]  # fmt: skip
    main, matrix = TransferEvaluation.tables(Findings(rows))
    assert [cells[-1] for cells in main.cells] == ["0.900", "-", "0.200", "0.800"]
    assert [main.emphasis(row) for row in rows] == ["strong", "", "", "strong"]
    assert (matrix.title, matrix.headings) == ("adv2-fast: map IoU", ["aimed at", "by a", "by b"])
    assert matrix.cells == [["a", "0.900", "-"], ["b", "0.200", "0.800"]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows of cells that are handed to the figure of one image."""
    found: list[Any] = []
    monkeypatch.setattr(figures, "grid", lambda rows, title: found.extend(rows) or object())
    return found


def test_a_map_of_another_interpreter_is_that_ones_for_the_predicted_class(drawn: list[Any]) -> None:
    classifier = small_classifier()
    images = lattice_images(6, seed=3)
    label = classifier(images).argmax(1)
    batch: Any = {"images": images, "label": label, "image_id": [f"i{k}" for k in range(6)]}
    judges = [CAM(), Gradient()]
    records = {one.name: attack_batch(classifier, one, batch, [ADV2(steps=30)]) for one in judges}
    if transfer_maps(classifier, judges, records, list("abcdefgh"), torch.device("cpu")) is None:
        pytest.fail("no image was fooled under both: take more steps")
    assert [len(row) for row in drawn] == [3, 3, 3]
    source = records["cam"]
    attack = source.attacks[-1]
    shown = drawn[1][0][0]  # the image attacked for CAM
    i = next(k for k in range(len(source.image_id)) if np.array_equal(attack.adv_images[k].permute(1, 2, 0), shown))
    asked = to_float(attack.adv_images[i : i + 1]), attack.adv_predicted[i : i + 1]
    for place, judge in enumerate(judges, 1):
        wanted = judge.explain(classifier, *asked).attribution_map[0]
        assert np.array_equal(drawn[1][place][0], overlay(attack.adv_images[i], wanted))


def test_alone_there_is_nobody_to_explain(drawn: list[Any]) -> None:
    classifier, images = small_classifier(), lattice_images(2, seed=3)
    batch: Any = {"images": images, "label": classifier(images).argmax(1), "image_id": ["a", "b"]}
    records = {"cam": attack_batch(classifier, CAM(), batch, [ADV2(steps=2)])}
    assert transfer_maps(classifier, [CAM()], records, list("abcdefgh"), torch.device("cpu")) is None
    assert not drawn


def test_without_an_attack_on_a_map(tmp_path: Path) -> None:
    loop = trainer(tmp_path, AttackEvaluation([pgd(steps=2)]), TransferEvaluation())
    loop.validate(idls(*NAMES), shapes(), verbose=False)
    assert rows(tmp_path) == []
    assert not (tmp_path / "figures" / "transfer.png").exists()


def test_it_comes_after_the_attack(tmp_path: Path) -> None:
    study, attack = TransferEvaluation(), AttackEvaluation(short_attacks())
    for callbacks in ([study], [study, attack]):
        with pytest.raises(ValueError, match="list it after that one"):
            trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)


def test_the_command_draws_the_figure_again(finished: Any, tmp_path: Path) -> None:
    """In a process of its own, which knows the study by its file alone."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    figure = run / "figures" / "transfer.png"
    before = figure.read_bytes()
    figure.unlink()
    done = run_python("-m", "lightning_adv2", "report", run, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert figure.read_bytes() == before


def test_nothing_during_fit(tmp_path: Path) -> None:
    study = TransferEvaluation()
    callbacks: list[pl.Callback] = [AttackEvaluation(short_attacks("rts"), num_images=2), study]
    loop = trainer(tmp_path, *callbacks, max_steps=2, max_epochs=-1, val_check_interval=2, num_sanity_val_steps=1)
    loop.fit(RTSModule(victim(), untrained_rts(), selector_steps=1), shapes())
    assert list(tmp_path.rglob("results.json")), "there was a validation"
    assert not list(tmp_path.rglob("transfer.json"))
    assert not study.rows
