from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser
from lab import attack_data, idls, interpreter, shapes, short_attacks, trainer, untrained_rts, victim
from report.runs import has, history
from runtime.owner import start
from torch import nn
from toys import search

from lightning_adv2.attacks import ADV2, adv2_attack, adv2_cam, pgd
from lightning_adv2.attacks.targets import RandomClass
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.evaluation.progress import StepProgress
from lightning_adv2.interpreters import CAM
from lightning_adv2.metrics import METRICS
from lightning_adv2.models import ResidualClassifier, weights_hash
from lightning_adv2.modules import IDLS, RTSModule
from lightning_adv2.report import wandb_logger
from lightning_adv2.results import read_records
from lightning_adv2.runtime.ownership import FILE as LOCK
from lightning_adv2.runtime.ownership import FolderInUseError
from lightning_adv2.types import Interpretation

FILES = {
    "results.json", "results.csv", "images.csv", "status.csv", "stamp.json", "manifest.json", "manifest.copy.json",
    "records", "figures", "report.html", "SHA256SUMS",
}  # fmt: skip


def state(module: nn.Module) -> tuple[Any, ...]:
    """Everything that an attack could leave behind in a network."""
    return (
        weights_hash(module),
        [part.training for part in module.modules()],
        [(p.requires_grad, p.grad is None) for p in module.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [len(part._backward_hooks) + len(part._backward_pre_hooks) for part in module.modules()],
    )


def read_stamp(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stamp.json").read_text())


def assert_logged(logged: dict[str, float], results: dict[str, Any], stage: str) -> None:
    """What is logged is what the file says."""
    expected = {}
    for row in results["rows"]:
        key = row["attack"] if row["schedule"] == "control" else f"{row['attack']}-{row['schedule']}"
        names = [name for name in METRICS if name != "size" or row["unit"] != "Linf"]
        if row["target"] == "benign":
            names = [name for name in names if name not in ("l1_benign", "iou_benign")]
        assert len(names) >= 11
        expected |= {f"{stage}/{key}/{row['interpreter']}/{name}": row[name] for name in names}
    found = {name: float(value) for name, value in logged.items() if name in expected}
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-6)  # logged in single precision


@pytest.mark.parametrize("name", ["cam", "grad", "rts"])
def test_test(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, evaluation, data = idls(name), AttackEvaluation(short_attacks(name)), attack_data()
    before = state(module)
    loop = trainer(tmp_path, evaluation)
    (logged,) = loop.test(module, data, verbose=False)
    assert state(module) == before
    assert {path.name for path in tmp_path.iterdir()} == FILES
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["attack"] for row in results["rows"]] == ["noise", "target_class", "pgd", "adv2"]
    assert {row["n"] for row in results["rows"]} == {13}
    assert {(row["dataset"], row["classifier"], row["interpreter"]) for row in results["rows"]} == {
        ("shapes", "resnet8", name)
    }
    by_attack = {row["attack"]: row for row in results["rows"]}
    assert by_attack["target_class"]["linf"] == 0
    assert by_attack["target_class"]["asr"] == 0, "benign images, all of them right"
    assert by_attack["adv2"]["steps"] == 6
    assert_logged(logged, results, "test")
    assert evaluation.summary is not None
    assert evaluation.summary.rows == results["rows"]
    assert data.manifest is not None
    assert results["denominators"]["considered"] == data.manifest.considered
    assert results["denominators"]["already_wrong"] == data.manifest.already_wrong
    stamp = read_stamp(tmp_path)
    assert stamp["classifier_sha256"] == weights_hash(module.classifier)
    assert stamp["interpreter_sha256"] == {name: weights_hash(module.interpreter)}
    assert re.fullmatch("[0-9a-f]{64}", stamp["manifest_sha256"])
    assert (stamp["seed"], stamp["processes"], stamp["halvings"]) == (0, 1, {})
    assert all(stamp["seconds"][name][key] > 0 for key in ("noise", "pgd-fast", "adv2-fast"))
    records = list(read_records(tmp_path / "records"))
    assert [len(record.image_id) for record in records] == [4, 4, 4, 1]
    assert [n for r in records for n in r.image_id] == [entry.image_id for entry in data.manifest.entries]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "agreement.png", "convergence.png", "gallery.png"
    }  # fmt: skip
    assert "adv2" in capsys.readouterr().out


def test_several_interpreters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the module's order, with the numbers that each has by itself."""
    names = ["rts", "cam", "grad"]
    module, evaluation = idls(*names), AttackEvaluation([pgd(steps=6), adv2_cam(steps=4)])
    before, logger = state(module), wandb_logger(tmp_path / "log")
    (logged,) = trainer(tmp_path / "all", evaluation, logger=logger).test(
        module, attack_data(num_images=5), verbose=False
    )
    assert state(module) == before
    folder = tmp_path / "all"
    assert {path.name for path in folder.iterdir()} - {"wandb"} == FILES
    results = json.loads((folder / "results.json").read_text())
    rows = results["rows"]
    attacks = ["noise", "target_class", "pgd", "adv2"]
    assert [(row["interpreter"], row["attack"]) for row in rows] == [(n, a) for n in names for a in attacks]
    assert_logged(logged, results, "test")
    stamp = read_stamp(folder)
    assert len({stamp["seconds"][name]["pgd-fast"] for name in names}) == 1, "run once"
    assert list(results["denominators"]) == names
    assert stamp["interpreter_sha256"] == {n: weights_hash(interpreter(n)) for n in names}
    assert evaluation.summary is not None
    assert evaluation.summary.rows == rows
    own = {f"{n}/{kind}.png" for n in names for kind in ("gallery", "convergence")}
    figures = {path.relative_to(folder / "figures").as_posix() for path in (folder / "figures").rglob("*.png")}
    assert figures == own | {"agreement.png", "overview.png"}
    text = capsys.readouterr().out
    assert [text.index(f" {name} ") for name in names] == sorted(text.index(f" {name} ") for name in names)
    assert logger.close()
    log = history(tmp_path / "log")
    for key in (*(f"images/test/{n}/gallery" for n in names), "results/test/overview", "running/adv2-fast/grad/iou"):
        assert any(has(row, key) for row in log), key
    for name in names[:2]:
        alone = AttackEvaluation([pgd(steps=6), adv2_cam(steps=4)])
        trainer(tmp_path / name, alone).test(idls(name), attack_data(num_images=5), verbose=False)
        assert alone.summary is not None
        assert results["denominators"][name] == alone.summary.denominators
        mine = [row for row in rows if row["interpreter"] == name]
        for one, other in zip(mine, alone.summary.rows, strict=True):
            assert one == other


def test_another_target_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = AttackEvaluation(short_attacks(), target=RandomClass())
    data = attack_data(partners=True)
    (logged,) = trainer(tmp_path, evaluation).test(idls(), data, verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["target"] for row in results["rows"]} == {"class"}
    assert read_stamp(tmp_path)["target"] == "class"
    assert any(row["iou"] != row["iou_benign"] for row in results["rows"])
    assert "test/adv2-fast/cam/iou_benign" in logged
    assert_logged(logged, results, "test")
    text = capsys.readouterr().out
    assert "target map: class" in text
    assert "benign IoU" in text


def test_yaml_names_attacks_presets_and_targets(tmp_path: Path) -> None:
    """A ready attack, the joint attack that fits itself to each interpreter, and a target map, by class path."""
    content = {
        "attacks": [
            {"class_path": "lightning_adv2.attacks.pgd", "init_args": {"steps": 2}},
            {"class_path": "lightning_adv2.attacks.ADV2", "init_args": {"name": "adv2-own"}},
        ],
        "target": {"class_path": "lightning_adv2.attacks.RandomPatch"},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"study": content}))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(AttackEvaluation, "study")
    evaluation = parser.instantiate_classes(parser.parse_args([f"--config={tmp_path / 'study.yaml'}"])).study
    trainer(tmp_path, evaluation).test(idls("cam", "rts"), attack_data(num_images=2), verbose=False)
    found = [(r["interpreter"], r["attack"], r["steps"], r["target"]) for r in evaluation.summary.rows]
    ready = {name: adv2_attack(interpreter(name)).steps for name in ("cam", "rts")}
    assert [row for row in found if row[1] == "adv2-own"] == [
        (name, "adv2-own", ready[name], "patch") for name in ("cam", "rts")
    ]
    assert [row for row in found if row[1] == "pgd"] == [(name, "pgd", 2, "patch") for name in ("cam", "rts")]


def test_two_interpreters_of_one_name(tmp_path: Path) -> None:
    module = idls()
    module.interpreters.append(CAM())
    with pytest.raises(ValueError, match="different names, got cam, cam"):
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(module, attack_data(), verbose=False)
    odd = CAM()
    odd.name = "../cam"
    with pytest.raises(ValueError, match=r"interpreter: the name '../cam'"):
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(IDLS(victim(), odd), attack_data(), verbose=False)


def test_the_progress_bar_counts_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[StepProgress] = []
    original = StepProgress.__exit__

    def leave(self: StepProgress, *args: Any) -> None:
        bars.append(self)
        original(self, *args)

    monkeypatch.setattr(StepProgress, "__exit__", leave)
    evaluation = AttackEvaluation([pgd(steps=3), adv2_cam(steps=2)])
    trainer(tmp_path, evaluation).test(idls("cam", "grad"), attack_data(num_images=2), verbose=False)
    assert [(bar._total, bar._done + bar._current) for bar in bars] == [(3 + 2 + 2, 3 + 2 + 2)]


def test_the_same_elsewhere_gives_the_same(tmp_path: Path) -> None:
    for name in ("one", "other"):
        trainer(tmp_path / name, AttackEvaluation(short_attacks())).test(idls(), attack_data(), verbose=False)
    for file in ("results.json", "results.csv", "images.csv", "status.csv", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes(), file


def test_validate_without_a_manifest(tmp_path: Path) -> None:
    """Any data module will do; images already wrong are found batch by batch."""
    module = idls()
    loop = trainer(tmp_path, AttackEvaluation(short_attacks()))
    (logged,) = loop.validate(module, shapes(num_val=35), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert_logged(logged, results, "val")
    found = results["denominators"]
    assert found["considered"] == 35
    assert found["already_wrong"] > 0, "the victim has not seen these"
    assert read_stamp(tmp_path)["manifest_sha256"] is None


def test_during_fit(tmp_path: Path) -> None:
    class Logged(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, *_: object) -> None:
            if not trainer.sanity_checking:
                seen[trainer.global_step] = {k: float(v) for k, v in trainer.callback_metrics.items()}

    seen: dict[int, dict[str, float]] = {}
    module = RTSModule(victim(), untrained_rts(), selector_steps=1)
    frozen = state(module.classifier)
    evaluation = AttackEvaluation(short_attacks("rts"), num_images=2)
    options = {"max_steps": 4, "max_epochs": -1, "val_check_interval": 2, "num_sanity_val_steps": 1}
    data = shapes(num_train=64, num_val=35, batch_size=8, seed=0)
    logger = wandb_logger(tmp_path)
    trainer(tmp_path, evaluation, Logged(), logger=logger, **options).fit(module, data)
    assert state(module.classifier) == frozen
    assert logger.close()
    shown = [row for row in history(tmp_path) if has(row, "results/val/table")]
    assert [row["trainer/global_step"] for row in shown] == [1, 3], "one row for each validation; steps count from 0"
    assert all(has(row, "images/val/rts/gallery") for row in shown)
    folders = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert folders == ["step_000002", "step_000004"]
    for folder in folders:
        results = json.loads((tmp_path / "validation" / folder / "results.json").read_text())
        # The limit is checked between batches.
        assert 2 <= results["denominators"]["selected"] < 2 + 8
        assert_logged(seen[int(folder[-6:])], results, "val")
    assert not (tmp_path / "results.json").exists()


def test_sane_attacks_by_default(tmp_path: Path) -> None:
    evaluation = AttackEvaluation()
    trainer(tmp_path, evaluation).test(idls(), attack_data(num_images=2), verbose=False)
    assert evaluation.summary is not None
    steps = [(row["attack"], row["schedule"], row["steps"]) for row in evaluation.summary.rows]
    assert steps[2:] == [("pgd", "fast", 50), ("adv2", "fast", 50)]


def test_nothing_to_attack(tmp_path: Path) -> None:
    """A classifier that is always wrong: a report with empty hands, not a crash at the end."""

    classifier = ResidualClassifier(num_classes=8, widths=(4, 4, 4))
    with torch.no_grad():
        classifier.linear.weight.zero_()
        classifier.linear.bias.copy_(torch.eye(8)[7])  # a class that no shape has
    evaluation = AttackEvaluation([pgd(steps=1)])
    trainer(tmp_path, evaluation).test(IDLS(classifier, CAM()), shapes(), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rows"] == []
    assert results["denominators"]["already_wrong"] == results["denominators"]["considered"] == 35


def test_a_module_without_classifier_or_interpreter(tmp_path: Path) -> None:
    class Bare(pl.LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(TypeError, match=r"Bare has no attribute classifier and interpreter.*modules.IDLS"):
        trainer(tmp_path, AttackEvaluation()).test(Bare(), shapes(), verbose=False)


def test_what_a_later_interpreter_refuses_is_said_before_the_first_attack(tmp_path: Path) -> None:
    class Refusing(CAM):
        name = "refusing"

        def forward(self, *args: Any, **kwargs: Any) -> Interpretation:
            raise TypeError("no rule for this network")

    run = trainer(tmp_path, AttackEvaluation([pgd(steps=1)]))
    with pytest.raises(TypeError, match="no rule for this network"):
        run.test(IDLS(victim(), [CAM(), Refusing()]), attack_data(), verbose=False)
    assert not list(tmp_path.rglob("batch_*.safetensors"))
    without = trainer(tmp_path, AttackEvaluation([pgd(steps=1)]))
    without.test(idls("cam"), attack_data(), verbose=False)  # the folder is not lost to it
    assert (tmp_path / "results.json").exists()


def test_inference_mode_is_refused_before_any_work(tmp_path: Path) -> None:
    loop = trainer(tmp_path, AttackEvaluation(), inference_mode=True)
    with pytest.raises(RuntimeError, match=r"Trainer\(inference_mode=False\)"):
        loop.test(idls(), attack_data(), verbose=False)
    assert not (tmp_path / "records").exists()


def test_one_owner_of_the_folder_without_the_command_line_too(tmp_path: Path) -> None:
    folder, leave, seen = tmp_path / "run", tmp_path / "leave", []

    class Watched(CAM):
        def forward(self, *args: Any, **kwargs: Any) -> Interpretation:
            seen.append((folder / LOCK).is_file())
            return super().forward(*args, **kwargs)

    def test() -> None:
        run = trainer(folder, AttackEvaluation([pgd(steps=1)]))
        run.test(IDLS(victim(), Watched()), attack_data(num_images=4), verbose=False)

    other = start(folder, leave)
    with pytest.raises(FolderInUseError, match=f"in use by process {other.pid} on "):
        test()
    assert not (folder / "records").exists()
    leave.touch()
    assert other.wait(60) == 0
    test()
    assert seen
    assert all(seen)
    assert not (folder / LOCK).exists()
    with pytest.raises(RuntimeError, match="another experiment"):
        trainer(folder, AttackEvaluation([pgd(steps=2)])).test(idls("cam"), attack_data(num_images=4))
    assert not (folder / LOCK).exists(), "a run that fails leaves the folder to others"


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"attacks=\[\]: give at least one"):
        AttackEvaluation([])
    with pytest.raises(ValueError, match=r"name and schedule must tell them apart, got pgd-fast, pgd-fast"):
        AttackEvaluation([pgd(), pgd(steps=3)])
    AttackEvaluation([pgd(), pgd("paper")])
    loud = pgd()
    loud.name = "PGD"
    with pytest.raises(ValueError, match="attacks: the name 'PGD' becomes part of files"):
        AttackEvaluation([loud])


def test_images_csv_matches_the_records(tmp_path: Path) -> None:
    trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), attack_data(), verbose=False)
    with (tmp_path / "images.csv").open(newline="") as stream:
        rows = {(row["attack"], row["image_id"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 4 * 13
    for record in read_records(tmp_path / "records"):
        for attack in record.attacks:
            for i, name in enumerate(record.image_id):
                row = rows[attack.attack, name]
                assert float(row["confidence"]) == float(attack.confidence[i])
                success = int(attack.adv_predicted[i]) == int(record.target_class[i])
                assert row["success"] == str(success)


def test_an_interpreter_without_a_right_gradient_is_refused_before_the_first_attack(tmp_path: Path) -> None:
    class Opaque(CAM):
        name, differentiable = "opaque", False

    module, data = IDLS(victim(), [interpreter("cam"), Opaque()]), attack_data()
    with pytest.raises(ValueError, match="gradient of Opaque's map is not right"):
        trainer(tmp_path, AttackEvaluation([pgd(steps=1), ADV2(steps=1)])).test(module, data, verbose=False)
    assert not (tmp_path / "records").exists()
    trainer(tmp_path, AttackEvaluation([pgd(steps=1)])).test(module, data, verbose=False)
    assert (tmp_path / "records" / "opaque").is_dir()
    trainer(tmp_path / "search", AttackEvaluation([search(2)])).test(module, data, verbose=False)
    found = [attack for record in read_records(tmp_path / "search/records/opaque") for attack in record.attacks]
    assert "search" in {attack.attack for attack in found if attack.needs_map}
    assert not [flag for attack in found for flag in attack.flags if "gradient" in flag]
