from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab import attack_data, idls, interpreter, short_attacks, trainer, victim

from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.models import ResidualClassifier, TorchvisionClassifier
from lightning_adv2.report.findings import read_findings
from lightning_adv2.results import read_records
from lightning_adv2.results.summary import Row
from lightning_adv2.studies import ClassifierTransferEvaluation
from lightning_adv2.studies.classifier_transfer.judging import classifier_rows
from studies.cases import second_classifier


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("classifier_transfer")
    study = ClassifierTransferEvaluation([second_classifier(), victim()], ["other", "twin"])
    loop = trainer(folder, AttackEvaluation(short_attacks()), study)
    loop.test(idls("cam", "rts"), attack_data(), verbose=False)
    content = json.loads((folder / "classifier_transfer.json").read_text())
    return folder, study, content, {key: float(value) for key, value in loop.logged_metrics.items()}


def test_a_twin_sees_what_the_attacked_classifier_sees(finished: Any) -> None:
    """And that is what the attack's own table has."""
    folder, _, content, _ = finished
    results = json.loads((folder / "results.json").read_text())["rows"]
    own = {(row["interpreter"], row["attack"]): row for row in results}
    rows = {(row["classifier"], row["interpreter"], row["attack"]): row for row in content["rows"]}
    attacked = victim().name
    assert len(rows) == 3 * 2 * 3, "three classifiers, two interpreters, noise and two attacks"
    for name in ("noise", "pgd", "adv2"):
        first, twin = rows[attacked, "cam", name], rows["twin", "cam", name]
        for key in ("asr", "confidence", "l1", "iou"):
            assert first[key] == pytest.approx(own["cam", name][key], rel=1e-6)
        assert twin == {**first, "classifier": "twin"} | {
            key: pytest.approx(first[key], rel=1e-3, abs=1e-4)
            for key in ("confidence", "l1", "iou", "l1_fooled", "iou_fooled")
            if first[key] is not None
        }
        assert rows["twin", "rts", name]["asr"] == rows[attacked, "rts", name]["asr"]


def test_another_classifier_image_by_image(finished: Any) -> None:
    folder, _, content, _ = finished
    other = [row for row in content["rows"] if (row["classifier"], row["interpreter"]) == ("other", "cam")]
    rows = {row["attack"]: row for row in other}
    classifier, cam = second_classifier(), interpreter("cam")
    asked = right = 0
    for name in ("pgd", "adv2"):
        hits, wrongs, ious = [], [], []
        asked = right = 0
        for record in read_records(folder / "records" / "cam"):
            (attack,) = (one for one in record.attacks if one.attack == name)
            for i in range(len(record.image_id)):
                image, adv = (pixels[i : i + 1].float() / 255 for pixels in (record.images, attack.adv_images))
                label, asked = record.label[i : i + 1], asked + 1
                if int(classifier(image).argmax()) != int(label):
                    continue
                right += 1
                predicted = classifier(adv).argmax(1)
                hits.append(int(predicted) == int(record.target_class[i]))
                wrongs.append(int(predicted) != int(label))
                before, after = (cam.explain(classifier, x, c).attribution_map >= 0.5 for x, c in
                                 ((image, label), (adv, predicted)))  # fmt: skip
                ious.append(float((before & after).sum() / (before | after).sum()))
        row = rows[name]
        assert row["n"] == right
        assert row["asr"] == pytest.approx(sum(hits) / right)
        assert row["wrong"] == pytest.approx(sum(wrongs) / right)
        assert row["iou"] == pytest.approx(sum(ious) / right, abs=1e-3)
        fooled = [iou for iou, wrong in zip(ious, wrongs, strict=True) if wrong]
        assert row["fooled"] == len(fooled)
        assert row["iou_fooled"] == (pytest.approx(sum(fooled) / len(fooled), abs=1e-3) if fooled else None)
    (listed,) = (one for one in content["details"]["classifiers"] if one["name"] == "other")
    assert (listed["asked"], listed["right"]) == (asked, right)
    assert 0 < right < asked == 13, "this could fail"


def test_weights_of_its_own_stay_behind(finished: Any) -> None:
    folder, _, content, logged = finished
    skipped = [(one["classifier"], one["interpreter"]) for one in content["details"]["skipped"]]
    assert skipped == [("other", "rts"), ("twin", "rts")]
    assert all("rts has weights of its own" in one["reason"] for one in content["details"]["skipped"])
    for row in content["rows"]:
        left = row["interpreter"] == "rts" and row["classifier"] in ("other", "twin")
        assert (row["maps"], row["iou"]) == (0, None) if left else row["maps"] == row["n"]
        key = "noise" if row["attack"] == "noise" else f"{row['attack']}-fast"
        prefix = f"test/classifier_transfer/{key}/{row['interpreter']}/{row['classifier']}"
        assert logged[f"{prefix}/asr"] == pytest.approx(row["asr"], rel=1e-6)
        assert (f"{prefix}/iou" in logged) == (row["iou"] is not None)
    assert (folder / "figures" / "classifier_transfer.png").stat().st_size > 5000


def test_the_table_names_the_attacked_classifier_and_who_counts(finished: Any) -> None:
    folder, _, content, _ = finished
    study = read_findings(folder, "classifier_transfer")
    assert study is not None
    (table,) = study.tables
    attacked, other, twin = content["details"]["classifiers"]
    assert (attacked["name"], attacked["asked"], attacked["right"]) == (victim().name, None, None)
    assert table.title == f"Images attacked on {attacked['name']}, seen by other, twin"
    assert {row["classifier"] for row in table.rows if table.emphasis(row) == "strong"} == {attacked["name"]}
    assert table.notes[0].startswith(f"other gets {other['right']} of the 13 attacked images right when benign")
    assert table.notes[2].startswith("No maps by rts of other: rts has weights of its own")
    assert twin["sha256"] == attacked["sha256"] != other["sha256"]


HEAD = {"classifier": "b", "interpreter": "cam", "attack": "pgd", "schedule": "fast", "role": "class"}


def seen(order: tuple[int, int], image: str, hit: bool, wrong: bool, *values: float) -> Row:
    own = {"order": (0, 1, 1, *order), "image_id": image, "hit": hit, "wrong": wrong}
    return HEAD | own | dict(zip(("confidence", "l1", "iou"), values, strict=True))


def test_rows() -> None:
    """An image that comes twice counts once; one without a map is in no mean of maps; the order does not show."""
    nan = float("nan")
    images = [
        seen((1, 0), "y", False, True, 0.2, 0.4, 0.5),
        seen((0, 0), "x", True, True, 0.8, nan, nan),
        seen((2, 0), "y", True, True, 0.9, 0.9, 0.9),
        seen((0, 1), "z", False, False, 0.2, 0.2, 1.0),
    ]
    (row,) = classifier_rows(images)
    assert [row] == classifier_rows(images[::-1])
    assert row == {
        **HEAD, "n": 3, "maps": 2, "fooled": 1,
        "asr": pytest.approx(1 / 3), "wrong": pytest.approx(2 / 3), "confidence": pytest.approx(0.4),
        "l1": pytest.approx(0.3), "iou": 0.75, "l1_fooled": 0.4, "iou_fooled": 0.5, "empty": 0, "empty_fooled": 0,
    }  # fmt: skip


def test_what_cannot_work_is_refused_before_the_attack(tmp_path: Path) -> None:
    def run(study: ClassifierTransferEvaluation, *before: Any) -> None:
        trainer(tmp_path, *before, study).test(idls(), attack_data(), verbose=False)

    attack = AttackEvaluation(short_attacks())
    with pytest.raises(ValueError, match="got 0, named nothing"):
        ClassifierTransferEvaluation([])
    with pytest.raises(ValueError, match="a different name for each"):
        ClassifierTransferEvaluation([second_classifier(), second_classifier()])
    with pytest.raises(ValueError, match="lower-case"):
        ClassifierTransferEvaluation([second_classifier()], ["Other one"])
    with pytest.raises(ValueError, match="list it after that one"):
        run(ClassifierTransferEvaluation([second_classifier()], ["other"]))
    with pytest.raises(ValueError, match="is the attacked classifier's name"):
        run(ClassifierTransferEvaluation([second_classifier()]), attack)
    with pytest.raises(ValueError, match=r"other has 5 classes and the attacked .* has 7"):
        run(ClassifierTransferEvaluation([ResidualClassifier(num_classes=5)], ["other"]), attack)
    large = TorchvisionClassifier("alexnet", num_classes=7)
    with pytest.raises(ValueError, match=r"alexnet does not take images of shape \(3, 32, 32\)"):
        run(ClassifierTransferEvaluation([large]), attack)
    assert not list(tmp_path.rglob("batch_*.safetensors")), "nothing was attacked"
