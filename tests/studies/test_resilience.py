"""Noise and constant maps, put through the same evaluation as RTS."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, idls, short_attacks, test_batch, trainer, untrained_rts, victim

from lightning_adv2.attacks import Pixels, pgd
from lightning_adv2.attacks.dispatch import ADV2
from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.functional.losses import area, destruction, preservation
from lightning_adv2.functional.masking import blend, uninformative
from lightning_adv2.interpreters import CAM, RTS, ConstantMap, NoiseMap
from lightning_adv2.modules import IDLS
from lightning_adv2.report.resilience import LEAST_GAP
from lightning_adv2.studies import MapQualityEvaluation, NoiseEvaluation, ResilienceReport, TransferEvaluation

EPSILON = 0.15  # the victim knows its few images by heart, and holds on to them


def trained_rts(steps: int = 120) -> RTS:
    """RTS that has seen the images which are attacked."""
    batch, classifier, rts = test_batch(), victim().requires_grad_(False), untrained_rts()
    trained = [p for p in rts.parameters() if p.requires_grad]
    optimizer, generator = torch.optim.AdamW(trained, lr=1e-2), torch.Generator().manual_seed(0)
    rts.train()
    for _ in range(steps):
        images, label = batch["images"], batch["label"]
        background = uninformative(images, [generator] * len(images))
        mask = rts.network(images, label)[0]
        keep = preservation(classifier(blend(images, background, mask)), label)
        drop = destruction(classifier(blend(images, background, 1 - mask)), label, 1.0)
        optimizer.zero_grad()
        (keep + 2 * drop + 4 * area(mask, 1.0)).mean().backward()
        optimizer.step()
    return rts.eval()


def evaluate(folder: Path, module: IDLS, reference: str) -> dict[str, Any]:
    # A shorter attack on the trained RTS fails on one image in eight, and whoever is not fooled is not ranked.
    attacks = [pgd(steps=10, epsilon=EPSILON), ADV2(steps=100, threat_model=Pixels(EPSILON))]
    run = trainer(
        folder,
        MapQualityEvaluation(reference=reference, randomise=True),
        AttackEvaluation(attacks),
        ResilienceReport(reference),
    )
    logged = run.test(module, datamodule=attack_data(num_images=24, batch_size=24), verbose=False)[0]
    content = json.loads((folder / "resilience.json").read_text())
    rows = {row["interpreter"]: row for row in content["rows"]}
    results = json.loads((folder / "results.json").read_text())["rows"]
    for name, row in rows.items():
        for key in ("worst_iou", "benign_loss", "counts"):
            if row[key] is not None:
                assert logged[f"test/resilience/{name}/{key}"] == pytest.approx(float(row[key]))
        aimed = next(r for r in results if (r["interpreter"], r["attack"]) == (name, "adv2"))
        assert row["asr"] == pytest.approx(aimed["asr"])
        assert (row["resilience"] is None) is (aimed["asr"] < 0.95)
        with (folder / "images.csv").open() as stream:
            images = [one for one in csv.DictReader(stream) if (one["interpreter"], one["attack"]) == (name, "adv2")]
        for key, column in (("worst_iou", "iou"), ("iou_true_class",) * 2, ("iou_target_class",) * 2):
            fooled = [float(one[column]) for one in images if one["success"] == one["valid"] == "True"]
            assert row[key] == (pytest.approx(statistics.fmean(fooled)) if fooled else None)
    assert (folder / "figures" / "resilience.png").exists()
    assert (folder / "resilience.csv").exists()
    return rows


@pytest.mark.parametrize("reference", [pytest.param("rts", marks=pytest.mark.slow), "cam"])
def test_promise_22_noise_and_constant_maps_never_rank_above_rts(
    reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = CAM() if reference == "cam" else trained_rts()
    rows = evaluate(tmp_path, IDLS(victim(), [NoiseMap(), ConstantMap(), real]), reference)
    assert next(iter(rows)) == reference
    if reference == "rts":
        assert rows[reference]["counts"], rows[reference]
        assert rows[reference]["rank"] == 1
    else:  # this victim's CAM preserves hardly more than another image's: where it is no standard, nobody counts
        # The victim, and so the gap, depends on rounding and with it on the number of threads.
        standard = rows[reference]["benign"]["gap"] >= LEAST_GAP
        gate = [text.partition(":")[0] for text in rows[reference]["gate"]]
        assert standard or (gate == ["reference"] and rows[reference]["rank"] is None)
    for name in ("noise", "constant"):
        assert not rows[name]["counts"]
        assert rows[name]["rank"] is None
        # Not by the fate of the attack alone: the benign maps give it away, in more than one way.
        failed = {text.partition(":")[0] for text in rows[name]["gate"]}
        assert "randomised_correlation" in failed
        assert failed & {"preserved", "gap", "insertion", "deletion"}
    assert rows["constant"]["benign"]["gap"] == pytest.approx(0, abs=5e-4)
    assert "noise does not count" in capsys.readouterr().out


def test_what_it_reads_must_come_before_it(tmp_path: Path) -> None:
    full = MapQualityEvaluation(reference="rts", randomise=True)
    attacks = AttackEvaluation(short_attacks("rts"))
    patch = AttackEvaluation(short_attacks("rts"), target=RandomPatch())
    wrong = (
        ([full, ResilienceReport()], "what AttackEvaluation writes"),
        ([attacks, ResilienceReport()], "what MapQualityEvaluation writes"),
        ([full, ResilienceReport(), attacks], "what AttackEvaluation writes"),
        ([full, attacks, ResilienceReport(), TransferEvaluation()], "TransferEvaluation comes after ResilienceReport"),
        ([full, attacks, ResilienceReport(), NoiseEvaluation()], "NoiseEvaluation comes after ResilienceReport"),
        ([full, patch, ResilienceReport()], r"target: .*'patch'.*leave target out"),
        ([MapQualityEvaluation(reference="rts"), attacks, ResilienceReport()], "randomise=True"),
        ([MapQualityEvaluation(reference="cam", randomise=True), attacks, ResilienceReport()], "reference='rts'"),
    )
    for place, (callbacks, message) in enumerate(wrong):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path / str(place), *callbacks).test(idls("rts", "cam"), datamodule=attack_data(), verbose=False)
    with pytest.raises(ValueError, match="tolerance=-1"):
        ResilienceReport(tolerance=-1)
