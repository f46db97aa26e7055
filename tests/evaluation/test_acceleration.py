"""An evaluation through the victim's fast copy finds what one through the victim itself finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.attacks import ADV2, Acceleration, EarlyStopping
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.results.run import read_run
from lightning_adv2.runtime.experiment import DifferentExperimentError

PLAIN = Acceleration(fold_batchnorm=False, channels_last=False)


@pytest.mark.parametrize("name", ["cam", "grad", "rts"])
def test_the_records_agree(name: str, tmp_path: Path) -> None:
    """Nearly every pixel is the same; every figure is, but for single pixels that rounding turned."""
    found = {}
    for folder, how in (("fast", None), ("plain", PLAIN)):
        evaluation = AttackEvaluation(short_attacks(name), acceleration=how)
        trainer(tmp_path / folder, evaluation).test(idls(name), attack_data(), verbose=False)
        found[folder] = read_run(tmp_path / folder)
    pairs = zip(found["fast"].records(name), found["plain"].records(name), strict=True)
    for fast, plain in pairs:
        assert fast.image_id == plain.image_id
        assert torch.equal(fast.benign_map, plain.benign_map), "no map that is reported is the copy's"
        for one, other in zip(fast.attacks, plain.attacks, strict=True):
            same = (one.adv_images == other.adv_images).float().mean()
            assert same > (0.999 if one.schedule == "control" else 0.95)
    for fast, plain in zip(found["fast"].summary.rows, found["plain"].summary.rows, strict=True):
        assert fast["asr"] == pytest.approx(plain["asr"], abs=1 / 13)
        assert fast["iou"] == pytest.approx(plain["iou"], abs=0.03)
        assert fast["l1"] == pytest.approx(plain["l1"], abs=0.01)
    with pytest.raises(DifferentExperimentError, match="acceleration"):
        trainer(tmp_path / "fast", AttackEvaluation(short_attacks(name), acceleration=PLAIN)).test(
            idls(name), attack_data(), verbose=False
        )


def test_images_left_alone_are_counted_in_the_tables(tmp_path: Path) -> None:
    """Also where the batch was too large for the memory and its parts stopped at different steps."""
    attack = ADV2("paper", steps=60, stop=EarlyStopping(patience=3, tolerance=0.05, every=2))
    evaluation = AttackEvaluation([attack])
    trainer(tmp_path, evaluation).test(idls("cam"), attack_data(), verbose=False)
    row = json.loads((tmp_path / "results.json").read_text())["rows"][-1]
    assert row["steps"] == 460
    assert 0 < row["mean_steps"] < 400
    taken = [one for record in read_run(tmp_path).records("cam") for one in record.attacks[-1].steps_taken.tolist()]
    assert sum(taken) / len(taken) == row["mean_steps"]
    assert len(set(taken)) > 1


def test_parts_of_a_halved_batch_that_stopped_at_different_steps_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_adv2.evaluation import attack_evaluation

    whole = attack_evaluation.attack_batch

    def too_large(classifier, interpreter, batch, *more, **options):
        if len(batch["images"]) > 2:
            raise torch.OutOfMemoryError("no room")
        return whole(classifier, interpreter, batch, *more, **options)

    monkeypatch.setattr(attack_evaluation, "attack_batch", too_large)
    attack = ADV2("paper", steps=60, stop=EarlyStopping(patience=3, tolerance=0.05, every=2))
    trainer(tmp_path, AttackEvaluation([attack])).test(idls("cam"), attack_data(), verbose=False)
    records = list(read_run(tmp_path).records("cam"))
    assert [record.pieces for record in records] == [2, 2, 2, 1]
    assert all(record.attacks[-1].trace["iou"].shape == (60, len(record.image_id)) for record in records)
