"""Interpreters that are never attacked explain the images that were attacked for others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from configurations import DATA, QUIET, classifier
from lab import attack_data, idls, short_attacks, trainer, victim, victim_weights

from lightning_adv2.attacks import adv2_cam, run_attack
from lightning_adv2.cli import main
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.run import record_paths
from lightning_adv2.interpreters import Captum, Gradient, NoiseMap
from lightning_adv2.models import Classifier
from lightning_adv2.results import read_records
from lightning_adv2.studies import TransferEvaluation
from lightning_adv2.types import Interpretation
from studies.cases import measured

FAQ = Path(__file__).parents[2] / "docs" / "faq.md"
MADE = [("none", "pgd", "fast"), ("none", "noise", "control"), ("cam", "adv2", "fast")]


def config(folder: Path, **judge: Any) -> str:
    """The FAQ's configuration on the victim, with short attacks; ``judge`` in place of its own."""
    (block,) = re.findall(r"```yaml\n(model:.*?)```", FAQ.read_text(), re.DOTALL)
    content = yaml.safe_load(block)
    content["model"]["init_args"]["classifier"] = classifier(victim_weights(folder))
    content["data"] = {"class_path": "lightning_adv2.data.AttackDataModule",
                       "init_args": {"source": DATA, "num_images": 6, "batch_size": 4}}  # fmt: skip
    attack, study = content["trainer"]["callbacks"]
    attack["init_args"] = {"attacks": [{"class_path": f"lightning_adv2.attacks.{name}", "init_args": {"steps": 30}}
                                       for name in ("pgd", "adv2_cam")]}  # fmt: skip
    if judge:
        study["init_args"]["judges"][0] = judge
    content["trainer"] |= QUIET | {"default_root_dir": str(folder / "run"), "logger": False}
    path = folder / "judged.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "transfer.json").read_text())["rows"]
    return found


def test_captum_judges_cams_attack_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--config", config(tmp_path)])
    run = tmp_path / "run"
    own = json.loads((run / "results.json").read_text())["rows"]
    assert {row["interpreter"] for row in own} == {"cam"}, "it is not attacked"
    found = {(row["source"], row["attack"], row["schedule"]): row for row in rows(run)
             if row["interpreter"] == "captum-saliency"}  # fmt: skip
    assert sorted(found) == sorted(MADE)
    saliency, network = Captum("Saliency"), victim()
    for (_, name, _), row in found.items():
        values = []
        for record in read_records(run / "records"):
            (attack,) = (one for one in record.attacks if one.attack == name)
            for i in range(len(record.image_id)):
                adv, benign = attack.adv_images[i : i + 1].float() / 255, record.images[i : i + 1].float() / 255
                before = saliency.explain(network, benign, record.label[i : i + 1]).attribution_map
                after = saliency.explain(network, adv, network(adv).argmax(1)).attribution_map
                values.append(measured(after, before))
        assert row["n"] == len(values) == 6
        assert row["l1"] == pytest.approx(sum(l1 for l1, _ in values) / 6, rel=1e-4)
        assert row["iou"] == pytest.approx(sum(iou for _, iou in values) / 6, abs=1e-3)
        assert row["l1"] > 0.001
    page, printed = (run / "report.html").read_text(), capsys.readouterr().out
    for text in (page, printed):
        assert "by captum-saliency" in text
    for figure in ("transfer", "transfer_maps"):
        assert (run / "figures" / f"{figure}.png").stat().st_size > 5000


def test_other_judges_look_at_the_same_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--config", config(tmp_path)])
    made = {path: path.stat().st_mtime_ns for path in record_paths(tmp_path / "run" / "records")}
    assert len(made) == 2
    other = config(tmp_path, class_path="lightning_adv2.interpreters.Gradient")
    main(["test", "--config", other])
    assert "2 of 2 records are kept as they are" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert {row["interpreter"] for row in rows(tmp_path / "run")} == {"cam", "grad"}


def test_the_attacked_interpreters_rows_are_as_without_judges(tmp_path: Path) -> None:
    found = []
    for judges in (None, [NoiseMap(map_stride=4)]):
        folder = tmp_path / str(judges is None)
        study = TransferEvaluation() if judges is None else TransferEvaluation(judges)
        trainer(folder, AttackEvaluation(short_attacks()), study).test(
            idls("cam", "grad"), attack_data(num_images=6), verbose=False
        )
        found.append([row for row in rows(folder) if row["interpreter"] in ("cam", "grad")])
        added = {(row["source"], row["attack"], row["interpreter"]) for row in rows(folder)} - {
            (row["source"], row["attack"], row["interpreter"]) for row in found[0]
        }
        judged = [("none", "noise"), ("none", "pgd"), ("cam", "adv2"), ("grad", "adv2")]
        assert added == (set() if judges is None else {(*made, "noise") for made in judged})
    assert found[0] == found[1]


class Partly(Gradient):
    """Shows the same everywhere on one image."""

    name, differentiable = "partly", False

    def forward(
        self, classifier: Classifier, images: torch.Tensor, class_idx: torch.Tensor, state: Any = ()
    ) -> Interpretation:
        result = super().forward(classifier, images, class_idx, state)
        keep = images.flatten(1).mean(1) != self.left_out
        result.attribution_map = torch.where(keep.view(-1, 1, 1, 1), result.attribution_map, 0.0)
        return result

    left_out = 0.0


def test_an_image_that_the_judge_cannot_explain_does_not_count(tmp_path: Path) -> None:
    judge = Partly()
    trainer(tmp_path, AttackEvaluation([adv2_cam(steps=4)])).test(idls(), attack_data(num_images=6), verbose=False)
    first = next(iter(read_records(tmp_path / "records"))).images[0].float() / 255
    judge.left_out = float(first.flatten().mean())
    trainer(tmp_path, AttackEvaluation([adv2_cam(steps=4)]), TransferEvaluation([judge])).test(
        idls(), attack_data(num_images=6), verbose=False
    )
    assert {(row["interpreter"], row["n"]) for row in rows(tmp_path)} == {("cam", 6), ("partly", 5)}


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"judges: got the class Captum"):
        TransferEvaluation([Captum])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"judges: captum-saliency stands for two"):
        TransferEvaluation([Captum("Saliency"), Captum("Saliency")])
    callbacks = AttackEvaluation(short_attacks()), TransferEvaluation([Captum("Saliency", name="cam")])
    with pytest.raises(ValueError, match=r"judges: cam stands for two"):
        trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)


class Unwilling(Gradient):
    name = "unwilling"

    def forward(self, *args: Any, **kwargs: Any) -> Interpretation:
        raise TypeError("not on this network")


def test_a_judge_that_fails_does_so_before_hours_of_attack(tmp_path: Path) -> None:
    callbacks = AttackEvaluation(short_attacks()), TransferEvaluation([Unwilling()])
    with pytest.raises(TypeError, match="not on this network"):
        trainer(tmp_path, *callbacks).test(idls(), attack_data(), verbose=False)
    assert not list((tmp_path / "records").rglob("batch*"))


def test_the_error_names_the_way() -> None:
    images, classes = torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"not among the module's interpreters.*TransferEvaluation\(judges=\["
    ) as error:
        run_attack(adv2_cam(steps=2), victim(), Captum("Saliency"), images, classes, torch.rand(1, 1, 16, 16))
    assert "evaluate this one on the result" in str(error.value)
