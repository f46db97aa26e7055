from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
from lab import attack_data, idls, shapes, short_attacks, trainer, untrained_rts, victim
from PIL import Image
from torch import Tensor

from benchmarks.kills import BOUND, alive, begun, finished, kill_at_random, note_attacks, processes, wait_until
from lightning_adv2.attacks import adv2_cam, adv2_mask, pgd
from lightning_adv2.data import AttackDataModule, ImageFolderDataModule, ShapesDataset
from lightning_adv2.evaluation import AttackEvaluation, attack_evaluation
from lightning_adv2.evaluation.attack_batch import Shared
from lightning_adv2.interpreters import CAM, MASK
from lightning_adv2.modules import IDLS
from lightning_adv2.runtime.experiment import DifferentExperimentError
from lightning_adv2.runtime.signals import Interruption


def evaluate(folder: Path, devices: int, kind: str = "cam") -> None:
    """Something to interrupt, which notes every attack that it begins."""
    note_attacks(folder)
    if kind == "mask":  # one batch that takes minutes
        evaluation = AttackEvaluation([adv2_mask(schedule="paper")])
        module, data = IDLS(victim(), MASK()), attack_data(num_images=4, batch_size=2)
    else:
        evaluation = AttackEvaluation([pgd(steps=150), adv2_cam(steps=100)], seed=1)
        module, data = IDLS(victim(), [CAM(), untrained_rts()]), attack_data(num_images=13, batch_size=1)
    strategy = "ddp" if devices > 1 else "auto"
    trainer(folder, Interruption(), evaluation, devices=devices, strategy=strategy).test(module, data, verbose=False)


def launch(folder: Path, devices: int, kind: str = "cam") -> spawn.Spawned:
    """The first process, which starts the others."""
    return spawn.start(evaluate, folder, devices, kind, folder=folder, processes=devices)


def finish(folder: Path, devices: int) -> None:
    spawn.run(evaluate, folder, devices, folder=folder, processes=devices)


def gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The metrics of a run on one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, 1)
    assert len(begun(folder)) == 13 * 2
    return (folder / "results.json").read_bytes()


@pytest.mark.slow
def test_promise_1_and_11_killed_at_random_and_started_again(tmp_path: Path, whole: bytes) -> None:
    """SIGKILL for one or all of two processes at random moments; the last round runs to its end."""
    outcome = kill_at_random(partial(launch, tmp_path, 2), tmp_path, kills=6, wait=2.0)
    print(outcome)
    assert outcome.kills >= 4
    assert outcome.units == 26
    assert outcome.again == outcome.rewritten == 0, "a finished batch was attacked twice"
    assert outcome.begun_twice <= 2 * outcome.kills
    assert outcome.slowest_end < BOUND
    assert (tmp_path / "results.json").read_bytes() == whole


@pytest.mark.parametrize("counts", [(1, 2), (3, 1)])
@pytest.mark.slow
def test_promise_1_the_number_of_processes_may_change(tmp_path: Path, whole: bytes, counts: tuple[int, int]) -> None:
    run = launch(tmp_path, counts[0])
    wait_until(lambda: len(finished(tmp_path)) >= 4 or run.poll() is not None, 120)
    run.kill()
    kept = finished(tmp_path)
    assert kept
    finish(tmp_path, counts[1])
    assert (tmp_path / "results.json").read_bytes() == whole
    assert {key: finished(tmp_path)[key] for key in kept} == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "who"),
    [("cam", signal.SIGTERM, "first"), ("cam", signal.SIGUSR1, "all"), ("cam", signal.SIGTERM, "second"),
     ("mask", signal.SIGTERM, "all")],
)  # fmt: skip
def test_promise_10_a_signal_ends_an_evaluation_and_it_goes_on(
    tmp_path: Path, whole: bytes, number: signal.Signals, kind: str, who: str
) -> None:
    run = launch(tmp_path, 2, kind)
    wait_until(lambda: len(begun(tmp_path)) >= 3 or (kind == "mask" and len(begun(tmp_path)) == 2), 120)
    everyone = processes(run)
    assert len(everyone) == 2
    told = time.monotonic()
    for pid in {"all": everyone, "first": everyone[:1], "second": everyone[1:]}[who]:
        os.kill(pid, number)
    assert run.wait(BOUND) == 128 + number
    wait_until(partial(gone, everyone))
    seconds = time.monotonic() - told
    print(f"{kind}, {number.name}, {who}: ended after {seconds:.1f} s")
    assert f"{number.name}: finished batches are saved; run the same command again to go on" in str(run)
    assert not (tmp_path / "results.json").exists()
    assert not list((tmp_path / "records").rglob("*.tmp")), "nothing half written stays"
    if kind == "cam":
        kept = finished(tmp_path)
        finish(tmp_path, 2)
        assert (tmp_path / "results.json").read_bytes() == whole
        assert {key: finished(tmp_path)[key] for key in kept} == kept


def changed_pixel(data: AttackDataModule) -> AttackDataModule:
    dataset = data.source.dataset("test")
    original = dataset.load

    def load(index: int) -> tuple[object, object]:
        pixels, mask = original(index)
        pixels = pixels.copy()
        pixels[0, 0, 0] ^= 1
        return pixels, mask

    dataset.load = load  # type: ignore[method-assign,assignment]
    return data


def changed_weight(module: IDLS) -> IDLS:
    weight: Tensor = next(module.classifier.parameters())
    weight.data.view(-1)[0] += 1e-3
    return module


def test_promise_5_another_experiment_is_refused_by_name(tmp_path: Path) -> None:
    def run(module: IDLS | None = None, data: AttackDataModule | None = None, **options: object) -> None:
        evaluation = AttackEvaluation(**{"attacks": short_attacks(), "seed": 1} | options)  # type: ignore[arg-type]
        trainer(tmp_path, evaluation).test(module or idls(), data or attack_data(num_images=5), verbose=False)

    run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run()  # nothing to do, and nothing refused
    epsilon = [pgd(steps=6, epsilon=0.02), adv2_cam(steps=6)]
    with pytest.raises(DifferentExperimentError, match=r"epsilon: 0\.031 before, 0\.02 now"):
        run(attacks=epsilon)
    with pytest.raises(DifferentExperimentError, match=r"steps: 6 before, 7 now"):
        run(attacks=[pgd(steps=6), adv2_cam(steps=7)])
    with pytest.raises(DifferentExperimentError, match="seed: 1 before, 2 now"):
        run(seed=2)
    with pytest.raises(RuntimeError, match=r"classifier.*before.*now"):
        run(module=changed_weight(idls()))
    with pytest.raises(DifferentExperimentError, match=r"interpreters\.rts: \(nothing\) before, .*RTS now"):
        run(module=IDLS(victim(), untrained_rts()))
    with pytest.raises(RuntimeError, match=r"num_images: 5 .*, 6 now"):
        run(data=attack_data(num_images=6))
    with pytest.raises(ValueError, match=r"differs|sha256|changed"):
        run(data=changed_pixel(attack_data(num_images=5)))
    after = {path: path.read_bytes() for path in before}
    # The page shows the stamp, and the sums are of both.
    timed = {tmp_path / "stamp.json", tmp_path / "report.html", tmp_path / "SHA256SUMS"}
    assert {p: b for p, b in after.items() if p not in timed} == {p: b for p, b in before.items() if p not in timed}


def evaluate_with_seed(folder: Path, seed: int) -> None:
    trainer(folder, AttackEvaluation(short_attacks(), seed=seed)).test(idls(), attack_data(num_images=2), verbose=False)


def test_promise_5_a_refusal_names_the_remedy_and_the_command_fails(tmp_path: Path) -> None:
    """As a user meets it: a real process, its exit status and its last line."""
    spawn.run(evaluate_with_seed, tmp_path / "run", 1, folder=tmp_path)
    again = spawn.start(evaluate_with_seed, tmp_path / "run", 2, folder=tmp_path)
    assert again.wait(240) == 1
    assert "seed: 1 before, 2 now" in again.stderr
    assert "--trainer.default_root_dir" in again.stderr


def test_promise_7_a_damaged_record_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), attack_data(), verbose=False)

    run()
    results = (tmp_path / "results.json").read_bytes()
    path = tmp_path / "records" / "cam" / "batch_00002.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    attacked = []
    original = attack_evaluation.attack_batch

    def counting(*args: object, shared: Shared, **kwargs: object) -> object:
        attacked.append(shared.batch_index)
        return original(*args, shared=shared, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(attack_evaluation, "attack_batch", counting)
    run()
    assert attacked == [2]
    assert "batch_00002.safetensors" in capsys.readouterr().out
    assert (tmp_path / "results.json").read_bytes() == results
    shutil.rmtree(tmp_path / "figures")
    run()
    assert attacked == [2]
    assert (tmp_path / "figures" / "gallery.png").exists(), "all that is computed from records is made anew"


def test_records_of_a_loader_without_a_fixed_order_are_not_mixed(tmp_path: Path) -> None:
    trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), shapes(num_test=20), verbose=False)
    with pytest.raises(RuntimeError, match="other images than this batch"):
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), shapes(num_test=17), verbose=False)


def test_promise_5_changed_images_are_refused_without_a_manifest_too(tmp_path: Path) -> None:
    class Inverted(ShapesDataset):
        def load(self, index: int) -> Any:
            pixels, mask = super().load(index)
            return 255 - pixels, mask

    def run(**options: Any) -> None:
        data = shapes(num_test=8, batch_size=4)
        if options:
            data.dataset("test").__class__ = Inverted
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), data, verbose=False)

    run()
    with pytest.raises(RuntimeError, match="they have changed"):
        run(inverted=True)


def test_fewer_images_are_another_experiment(tmp_path: Path) -> None:
    """Or records that nobody asked for would count."""
    trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), shapes(num_test=12, batch_size=4), verbose=False)
    with pytest.raises(DifferentExperimentError, match="batches: 3 before, 2 now"):
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(
            idls(), shapes(num_test=8, batch_size=4), verbose=False
        )


@pytest.mark.parametrize("limit", [{"fast_dev_run": True}, {"limit_test_batches": 1}], ids=str)
def test_a_part_of_the_batches_is_reported_at_once(tmp_path: Path, limit: dict[str, Any]) -> None:
    start = time.monotonic()
    for num_images in (13, 9):  # a second rehearsal may be of another experiment
        folder = tmp_path if "fast_dev_run" in limit else tmp_path / str(num_images)
        evaluation = AttackEvaluation(short_attacks())
        trainer(folder, evaluation, **limit).test(idls(), attack_data(num_images=num_images), verbose=False)
        assert evaluation.summary is not None
        assert evaluation.summary.denominators["selected"] == 4
    assert time.monotonic() - start < 60
    assert (tmp_path / "fast_dev_run" / "results.json").exists() == ("fast_dev_run" in limit)
    assert not (tmp_path / "results.json").exists()


def test_a_batch_without_a_readable_image_is_not_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for split, count in (("train", 1), ("val", 3)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    (root / "val" / "a" / "1.png").write_bytes(b"")
    data = ImageFolderDataModule(root, batch_size=1, max_skipped=0.5)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"val/a/1\.png"):
        trainer(tmp_path / "run", AttackEvaluation([pgd(steps=1)])).test(idls(), data, verbose=False)
    assert time.monotonic() - start < 60


def test_what_depends_on_the_number_of_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_images=2: only for validation during fit"):
        trainer(tmp_path, AttackEvaluation(short_attacks(), num_images=2)).test(idls(), attack_data(), verbose=False)


def test_left_overs_of_killed_processes_are_swept_up(tmp_path: Path) -> None:
    rest = tmp_path / "records" / "cam" / ".batch_00000.safetensors.abc.tmp"
    rest.parent.mkdir(parents=True)
    rest.touch()
    trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), attack_data(num_images=2), verbose=False)
    assert not rest.exists()


def test_two_interpreters_one_of_them_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run killed between two interpreters: the second's records are the same whether or not the first's were kept."""

    def run(folder: Path) -> dict[str, object]:
        module = IDLS(victim(), [CAM(), untrained_rts()])
        trainer(folder, AttackEvaluation(short_attacks(), seed=3)).test(
            module, attack_data(num_images=5), verbose=False
        )
        return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]

    first = run(tmp_path)
    assert "records are kept" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "records" / "rts")
    assert run(tmp_path) == first
    assert f"2 of 4 records are kept as they are: {tmp_path}" in capsys.readouterr().out
