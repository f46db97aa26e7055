from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from lab import shapes

from lightning_adv2.functional.agreement import map_iou, map_l1
from lightning_adv2.interpreters import RTS
from lightning_adv2.models import weights_hash
from lightning_adv2.modules import BenignQuality, TrainingCheckpoint
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO
from modules.guarded import Destroy, Pupil, Watch, guarded_fit, loop


def fit(
    folder: Path, values: dict[int, float], guard: BenignQuality, **options: object
) -> tuple[Pupil, Watch, pl.Trainer]:
    pupil, watch = Pupil(), Watch()
    run = loop(folder, watch, guard, Destroy(values), **options)
    run.fit(pupil, shapes(num_val=10, batch_size=8))
    return pupil, watch, run


def test_promise_22_training_stops_and_gives_back_what_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = BenignQuality()
    with pytest.warns(UserWarning, match="worse than the teacher") as warned:
        pupil, watch, run = fit(tmp_path, {5: 40.0}, guard)
    assert run.global_step == 6
    assert [(one["step"], one["held"]) for one in guard.validations] == [(2, True), (4, True), (6, False)]
    assert len(set(watch.hashes.values())) == 3
    assert weights_hash(pupil.interpreter) == watch.hashes[4]
    message = next(str(one.message) for one in warned if "worse than the teacher" in str(one.message))
    assert f"agreement_l1 {guard.validations[-1]['agreement_l1']:.3f} > 0.1" in message
    assert "weights of step 4" in message
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Step ")]
    assert len(lines) == 3
    content = json.loads((tmp_path / "benign_quality.json").read_text())
    assert content["validations"] == guard.validations
    assert (content["stopped"], content["given_back"], content["limits"]) == (
        True,
        4,
        {"agreement_l1": 0.1, "agreement_l1_other_class": 0.1, "lost": 0.1},
    )
    assert (tmp_path / "figures" / "benign_quality.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_measured(tmp_path: Path) -> None:
    """Once more by hand, on all validation images at once."""
    guard = BenignQuality(max_agreement_l1=1, max_loss=100)
    pupil, _, run = fit(tmp_path, {2: 1.0}, guard, max_steps=2)
    dataset = shapes(num_val=10).dataset("val")
    images = torch.stack([dataset[i]["images"] for i in range(10)])
    label = torch.tensor([int(dataset[i]["label"]) for i in range(10)])
    shown = pupil.interpreter.explain(pupil.classifier, images, label).attribution_map
    taught = pupil.teacher.explain(pupil.classifier, images, label).attribution_map
    (entry,) = guard.validations
    assert entry["agreement_l1"] == pytest.approx(float(map_l1(shown, taught).mean()), abs=1e-5)
    assert entry["agreement_iou"] == pytest.approx(float(map_iou(shown, taught).mean()), abs=0.01)
    assert entry["agreement_l1_other_class"] != entry["agreement_l1"]
    signs = dict.fromkeys(("preserved", "gap", "insertion", "localisation_iou"), -1) | {"deletion": 1, "destroyed": 1}
    taught_values = {key: guard.teacher[key] for key in signs}
    losses = {key: signs[key] * (entry[key] - was) / max(abs(was), 0.05) for key, was in taught_values.items()}
    assert entry["lost"] == pytest.approx(max(losses.values()))
    assert entry["worst"] == max(losses, key=lambda key: losses[key])
    for key in ("agreement_l1", "agreement_iou", "agreement_l1_other_class", "agreement_iou_other_class", "lost"):
        assert float(run.callback_metrics[f"val/benign/rts_a/{key}"]) == pytest.approx(entry[key], rel=1e-6)


def test_promise_22_maps_that_are_no_numbers_do_not_hold(tmp_path: Path) -> None:
    guard = BenignQuality(order=False)
    with pytest.warns(UserWarning, match="worse than the teacher"):
        pupil, watch, run = fit(tmp_path, {3: float("nan")}, guard)
    assert run.global_step == 4
    assert guard.validations[-1]["lost"] == guard.validations[-1]["agreement_l1"] == 1
    assert weights_hash(pupil.interpreter) == watch.hashes[2]
    json.loads((tmp_path / "benign_quality.json").read_text(), parse_constant=pytest.fail)


def test_a_teacher_without_a_finite_map_is_refused_by_name(tmp_path: Path) -> None:
    pupil = Pupil()
    pupil.teacher.network.output.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="teacher: none of its maps is finite"):
        loop(tmp_path, BenignQuality(order=False)).fit(pupil, shapes(num_val=10, batch_size=8))


def test_promise_22_maps_for_another_class_have_the_same_limit(tmp_path: Path) -> None:
    """A map that keeps what it says of the true class, and of any other one says something new."""

    class Turned(Pupil):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.label = batch["label"]

        def on_validation_start(self) -> None:
            explain = RTS.explain

            def other(classifier: Any, images: torch.Tensor, asked: torch.Tensor) -> Any:
                result = explain(self.interpreter, classifier, images, asked)
                wrong = (asked != self.label).view(-1, 1, 1, 1)
                result.attribution_map = torch.where(wrong, 1 - result.attribution_map, result.attribution_map)
                return result

            object.__setattr__(self.interpreter, "explain", other)

    guard = BenignQuality(order=False, max_loss=100)
    with pytest.warns(UserWarning, match=r"worse than the teacher's: agreement_l1_other_class"):
        loop(tmp_path, guard).fit(Turned(), shapes(num_val=10, batch_size=8))
    (entry,) = guard.validations
    assert entry["agreement_l1"] <= 0.1 < entry["agreement_l1_other_class"]
    assert not entry["held"]


@pytest.mark.parametrize(("steps", "unjudged"), [(5, 1), (4, 0)])
def test_promise_22_steps_that_nobody_judged_are_named(
    steps: int, unjudged: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fit(tmp_path, {}, BenignQuality(order=False), max_steps=steps)
    found = [str(one.message) for one in recwarn if "were not compared" in str(one.message)]
    assert len(found) == unjudged
    assert all(f"after the last {unjudged} of {steps} steps" in text for text in found)


def test_what_recovers_in_time_goes_on(tmp_path: Path) -> None:
    guard, start = BenignQuality(order=False, patience=2), Pupil().interpreter.network.output.bias[0].item()
    pupil, watch, run = fit(tmp_path, {3: 40.0, 5: start}, guard, max_steps=8)
    assert run.global_step == 8
    assert [one["held"] for one in guard.validations] == [True, False, True, True]
    assert weights_hash(pupil.interpreter) == watch.hashes[8]


def test_a_resumed_run_has_what_held_and_counts_on(tmp_path: Path) -> None:
    first = BenignQuality(order=False, patience=2)
    with pytest.warns(UserWarning, match="got back"):
        one, watch, _ = fit(tmp_path, {5: 40.0}, first, max_steps=6)
    assert weights_hash(one.interpreter) == watch.hashes[4], "the last validation did not hold, whatever the patience"
    pupil = Pupil()
    checkpoint = TrainingCheckpoint(str(tmp_path / "kept"))
    run = loop(tmp_path, guard := BenignQuality(order=False, patience=2), Destroy({5: 40.0}), checkpoint, max_steps=6,
               enable_checkpointing=True)  # fmt: skip
    with pytest.warns(UserWarning, match="got back"):
        run.fit(pupil, shapes(num_val=10, batch_size=8))
    last = tmp_path / "kept" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content["callbacks"]["BenignQuality"]["kept_step"] == guard.kept_step == 4
    assert SealedCheckpointIO().load_checkpoint(last)["global_step"] == 6

    pupil, guard = Pupil(), BenignQuality(order=False, patience=2)
    run = loop(tmp_path, guard)
    with pytest.warns(UserWarning, match="worse than the teacher"):
        run.fit(pupil, shapes(num_val=10, batch_size=8), ckpt_path=last)
    assert run.global_step == 8
    assert [(entry["step"], entry["held"]) for entry in guard.validations] == [
        (2, True), (4, True), (6, False), (8, False)
    ]  # fmt: skip
    assert weights_hash(pupil.interpreter) == watch.hashes[4]


def test_a_training_that_was_stopped_stays_so(tmp_path: Path) -> None:
    checkpoint = TrainingCheckpoint()
    run = loop(tmp_path, watch := Watch(), BenignQuality(order=False), Destroy({5: 40.0}), checkpoint,
               enable_checkpointing=True)  # fmt: skip
    with pytest.warns(UserWarning, match="worse than the teacher"):
        run.fit(Pupil(), shapes(num_val=10, batch_size=8))
    pupil, run = Pupil(), loop(tmp_path, BenignQuality(order=False))
    with pytest.warns(UserWarning, match="got back"):
        run.fit(pupil, shapes(num_val=10, batch_size=8), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert run.global_step == 6
    assert weights_hash(pupil.interpreter) == watch.hashes[4]


@pytest.mark.slow
def test_two_processes_decide_alike_and_as_one_does(tmp_path: Path) -> None:
    found = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        ranks = spawn.run(guarded_fit, folder, devices, folder=folder, processes=devices)
        assert all(rank == ranks[0] for rank in ranks)
        found[devices] = ranks[0]
    alone, together = found[1], found[2]
    assert (alone["step"], alone["kept_step"], alone["given_back"]) == (6, 4, True)
    assert (together["step"], together["kept_step"], together["given_back"]) == (6, 4, True)
    for one, other in zip(alone["validations"], together["validations"], strict=True):
        for key in ("agreement_l1", "agreement_l1_other_class", "preserved", "destroyed"):
            assert one[key] == pytest.approx(other[key], abs=1e-5)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    class Half(Pupil):
        def __init__(self) -> None:
            super().__init__()
            del self.teacher

    with pytest.raises(TypeError, match="Half has no teacher"):
        loop(tmp_path, BenignQuality()).fit(Half(), shapes())
    for wrong in ({"max_loss": -1.0}, {"max_agreement_l1": float("nan")}, {"patience": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BenignQuality(**wrong)  # type: ignore[arg-type]
