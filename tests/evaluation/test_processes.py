from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import spawn
from lab import METRICS_FILES, attack_data, map_qualities, shapes, short_attacks, trainer, untrained_rts, victim

from lightning_adv2.attacks.targets import RandomPatch
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import CAM, Interpreter
from lightning_adv2.modules import IDLS
from lightning_adv2.studies import MapQualityEvaluation


def evaluate(folder: Path, devices: int) -> None:
    """The same evaluations on 1, 2 or 3 processes."""
    strategy = "ddp" if devices > 1 else "auto"
    for num_images in (13, 2):
        interpreter: Interpreter = CAM() if num_images == 13 else untrained_rts()
        callbacks = AttackEvaluation(short_attacks(interpreter.name), seed=1), MapQualityEvaluation(order=False)
        run = trainer(folder / str(num_images), *callbacks, devices=devices, strategy=strategy)
        run.test(IDLS(victim(), interpreter), attack_data(num_images=num_images), verbose=False)
    several = IDLS(victim(), [untrained_rts(), CAM()])
    callbacks = AttackEvaluation(short_attacks(), seed=1, target=RandomPatch()), MapQualityEvaluation(order=False)
    run = trainer(folder / "several", *callbacks, devices=devices, strategy=strategy)
    run.test(several, attack_data(num_images=5, batch_size=2), verbose=False)
    # Lightning's own sampler pads: 35 images in batches of 16 become 36 on two processes.
    padded = trainer(folder / "padded", AttackEvaluation(short_attacks()), devices=devices, strategy=strategy)
    padded.test(IDLS(victim(), CAM()), shapes(), verbose=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {}
    for devices in (1, 2, 3):
        folders[devices] = tmp_path_factory.mktemp(f"processes{devices}")
        spawn.run(evaluate, folders[devices], devices, folder=folders[devices], processes=devices)
    return folders


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def stamp(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "stamp.json").read_text())


@pytest.mark.parametrize("num_images", ["13", "2"])
@pytest.mark.parametrize("devices", [2, 3])
def test_promise_2_metrics_are_equal_for_any_number_of_processes(
    devices: int, num_images: str, runs: dict[int, Path]
) -> None:
    assert results(runs[devices] / num_images)["denominators"]["selected"] == int(num_images)
    alone, together = stamp(runs[1] / num_images), stamp(runs[devices] / num_images)
    assert together["processes"] == devices
    for key in ("classifier_sha256", "interpreter_sha256", "manifest_sha256"):
        assert together[key] == alone[key]
    for name in METRICS_FILES:
        one, other = runs[1] / num_images / name, runs[devices] / num_images / name
        assert one.read_bytes() == other.read_bytes(), name
    name = "cam" if num_images == "13" else "rts"
    records = sorted(path.name for path in (runs[devices] / num_images / "records" / name).iterdir())
    assert records == [f"batch_{i:05d}.safetensors" for i in range(4 if num_images == "13" else 1)]


@pytest.mark.parametrize("devices", [2, 3])
def test_promise_2_several_interpreters_on_any_number_of_processes(devices: int, runs: dict[int, Path]) -> None:
    alone = results(runs[1] / "several")
    assert [row["interpreter"] for row in alone["rows"]] == ["rts"] * 4 + ["cam"] * 4
    assert [part["selected"] for part in alone["denominators"].values()] == [5, 5]
    for name in METRICS_FILES:
        assert (runs[1] / "several" / name).read_bytes() == (runs[devices] / "several" / name).read_bytes(), name
    maps = [map_qualities(runs[n] / "several") for n in (1, devices)]
    assert list(maps[1]) == ["rts", "cam"]
    for name in ("rts", "cam"):
        assert maps[1][name] == pytest.approx(maps[0][name], rel=1e-9)


@pytest.mark.parametrize("devices", [2, 3])
def test_map_quality_on_any_number_of_processes(devices: int, runs: dict[int, Path]) -> None:
    alone, together = (map_qualities(runs[n] / "13")["cam"] for n in (1, devices))
    assert together == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_an_image_of_a_padded_sampler_counts_once(devices: int, runs: dict[int, Path]) -> None:
    found = results(runs[devices] / "padded")["denominators"]
    assert found["considered"] == 35
    assert found["already_wrong"] + found["selected"] == 35
    alone = results(runs[1] / "padded")
    assert found["selected"] == alone["denominators"]["selected"]
