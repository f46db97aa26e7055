from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from lab import map_qualities, shut_in

from lightning_adv2 import demo as module
from lightning_adv2.data import ShapesDataModule
from lightning_adv2.metrics import METRICS
from lightning_adv2.results import read_records


class SmallShapes(ShapesDataModule):
    """The demo's data, few and small: its numbers mean nothing, its way is the real one."""

    def __init__(self, num_train: int = 192, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(num_train, num_val=35, num_test=105, image_size=32, seed=seed, batch_size=batch_size)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    shut_in(monkeypatch, tmp_path / "wandb_home")
    monkeypatch.setattr(module, "ShapesDataModule", SmallShapes)
    monkeypatch.setattr(module, "CLASSIFIER_EPOCHS", 2)
    monkeypatch.setattr(module, "RTS_EPOCHS", 1)
    monkeypatch.setattr(module, "RTS_LOSS", module.RTS_LOSS | {"selector_steps": 2})
    monkeypatch.setattr(module, "AID_IMAGES", 32)
    monkeypatch.setattr(module, "AID_EPOCHS", 2)
    yield
    wandb.finish()
    wandb.teardown()


@pytest.mark.usefixtures("small")
def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    summary = module.demo(folder, num_images=4, seed=1)
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"] == summary.rows
    assert {(row["interpreter"], row["attack"]) for row in summary.rows} == {
        (interpreter, attack)
        for interpreter in ("grad", "cam", "rts", "rts_a")
        for attack in ("noise", "target_class", "pgd", "adv2")
    }
    for row in summary.rows:
        assert row["n"] == 4
        assert all(0 <= row[name] <= 1 for name in METRICS)
    for file in (
        "results.csv", "images.csv", "figures/agreement.png", "figures/overview.png", "figures/cam/gallery.png",
        "figures/grad/gallery.png", "figures/rts/gallery.png", "figures/rts/convergence.png",
        "figures/rts_a/gallery.png", "classifier/classifier.safetensors", "rts/rts.safetensors",
        "aid/rts_a.safetensors", "manifest.json", "map_quality.json", "records/cam/batch_00000.safetensors",
    ):  # fmt: skip
        assert (folder / file).stat().st_size > 100, file
    assert results["denominators"].keys() == {"grad", "cam", "rts", "rts_a"}
    stamp = json.loads((folder / "stamp.json").read_text())
    assert stamp["seed"] == 1
    assert 0 <= stamp["held_out_accuracy"] <= 1
    # All four interpreters are judged on the same images.
    judged: dict[str, list[str]] = {}
    for record in read_records(folder / "records"):
        judged.setdefault(record.interpreter, []).extend(record.image_id)
    assert list(judged) == ["grad", "cam", "rts", "rts_a"]
    assert judged["grad"] == judged["cam"] == judged["rts"] == judged["rts_a"]
    assert list((folder / "wandb").glob("offline-run-*"))
    # What it says in words is what the tables say, of an interpreter that was trained on.
    printed = " ".join(capsys.readouterr().out.split())
    ious = {row["interpreter"]: row["iou"] for row in summary.rows if row["attack"] == "adv2"}
    agreement = map_qualities(folder)["rts_a"]["agreement_l1"]
    assert f"{ious['rts']:.2f} with RTS, {ious['rts_a']:.2f} with RTS-A" in printed
    assert f"differ by L1 {agreement:.3f}" in printed
    assert 0 < agreement < 1
    assert "rts_a" in printed
