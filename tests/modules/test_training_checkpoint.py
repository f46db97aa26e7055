from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from full_disk import SmallDisk, small_disk  # noqa: F401 - a fixture
from lab import shapes, trainer, victim
from runtime.owner import start

from lightning_adv2.modules import ClassifierModule, TrainingCheckpoint
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO
from lightning_adv2.runtime.ownership import FILE as LOCK
from lightning_adv2.runtime.ownership import FolderInUseError
from modules.training import train

EPOCHS = {"max_epochs": 4}  # of 4 steps each
INSIDE = {"max_steps": 14, "max_epochs": -1, "val_check_interval": 3, "check_val_every_n_epoch": None}


def fit(folder: Path, die_before: int = -1, expected: int = 0, **options: Any) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    options = {"die_before": die_before, "devices": 1} | options
    done = spawn.start(train, folder, options, folder=folder, processes=options["devices"])
    assert done.wait(240) == expected or die_before >= 0, done
    return done.wait()


@pytest.fixture(scope="module")
def unhurt(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run that nobody disturbed, made once for all that differs only in workers and saves."""
    made: dict[str, Path] = {}

    def get(**options: Any) -> Path:
        options = {k: v for k, v in options.items() if k not in ("num_workers", "every_n_steps")}
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("unhurt")
            fit(made[key], **options)
        return made[key]

    return get


def diary(folder: Path, rank: int) -> list[Any]:
    return [json.loads(line) for line in (folder / f"diary-{rank}.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    return SealedCheckpointIO().load_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_equal(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}/{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def compare(whole: Path, parts: Path, die_before: int, **options: Any) -> None:
    assert fit(parts, die_before=die_before, **options) != 0, "nobody was killed"
    killed_at = state(parts)["global_step"]
    assert 0 < killed_at <= die_before
    fit(parts, **options)
    for rank in range(options.get("devices", 1)):
        expected = diary(whole, rank)
        assert len({images for _, _, images in expected}) == len(expected), "two batches alike show no order"
        assert diary(parts, rank) == expected[:die_before] + expected[killed_at:]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "perturbations"):
        assert_equal(state(parts).get(key), state(whole).get(key), key)
    name = "classifier.safetensors" if options["kind"] == "classifier" else "rts.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rts", "classifier", "warm aid"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_promise_9_four_epochs_against_two_and_a_kill_and_two(
    tmp_path: Path, unhurt: Callable[..., Path], kind: str, num_workers: int
) -> None:
    options: dict[str, Any] = {"kind": kind, "num_workers": num_workers, "limits": EPOCHS}
    compare(unhurt(**options), tmp_path, die_before=9, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "every", "num_workers"), [(EPOCHS, 3, 2), (EPOCHS, 7, 0), (INSIDE, None, 0), (INSIDE, 2, 2)], ids=str
)
def test_promise_9_from_inside_an_epoch(
    tmp_path: Path, unhurt: Callable[..., Path], limits: Any, every: int | None, num_workers: int
) -> None:
    options = {"kind": "rts", "num_workers": num_workers, "limits": limits, "every_n_steps": every}
    compare(unhurt(**options), tmp_path, die_before=8, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "limits", "every"),
    [("rts", EPOCHS, None), ("classifier", INSIDE, 2), ("warm aid", EPOCHS, None)],
    ids=str,
)
def test_promise_9_on_two_processes(
    tmp_path: Path, unhurt: Callable[..., Path], kind: str, limits: Any, every: int | None
) -> None:
    options = {"kind": kind, "limits": limits, "every_n_steps": every, "devices": 2}
    compare(unhurt(**options), tmp_path, die_before=9, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "rank", "number", "before"),
    [
        (1, 0, signal.SIGTERM, 6),
        (1, 0, signal.SIGUSR1, 7),
        (1, 0, signal.SIGINT, 6),
        (2, 0, signal.SIGTERM, 5),
        (2, 1, signal.SIGUSR1, 9),
        (2, 0, signal.SIGINT, 5),
    ],
)
def test_promise_10_a_signal_ends_fit_at_a_step_and_it_goes_on_exactly(
    tmp_path: Path, unhurt: Callable[..., Path], devices: int, rank: int, number: int, before: int
) -> None:
    """Sent to any one process: all stop after the same step, in the middle of an epoch of four."""
    options: dict[str, Any] = {"kind": "rts", "devices": devices, "limits": EPOCHS}
    whole = unhurt(**options)
    start = time.monotonic()
    fit(tmp_path / "parts", expected=128 + number, tell=[before, rank, int(number)], **options)
    assert time.monotonic() - start < 60, "no deadlock"
    assert state(tmp_path / "parts")["global_step"] == before + 1
    fit(tmp_path / "parts", **options)
    for one in range(devices):
        assert diary(tmp_path / "parts", one) == diary(whole, one)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(state(tmp_path / "parts")[key], state(whole)[key], key)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_promise_10_a_signal_inside_an_attack_of_a_validation(tmp_path: Path, devices: int) -> None:
    """The validation is repeated, and a ModelCheckpoint that watches it has all that it has without the signal."""
    limits = {"max_epochs": 2, "num_sanity_val_steps": 0}  # and a validation after each
    options: dict[str, Any] = {"kind": "rts", "devices": devices, "limits": limits, "attack": True}
    fit(tmp_path / "whole", **options)
    start = time.monotonic()
    fit(tmp_path / "parts", expected=128 + signal.SIGTERM, tell_in=4, **options)
    assert time.monotonic() - start < 60, "no deadlock"
    assert not (tmp_path / "parts" / "validation" / "step_000004" / "results.json").exists()
    fit(tmp_path / "parts", **options)
    for step in ("step_000004", "step_000008"):
        found, expected = (tmp_path / n / "validation" / step / "results.json" for n in ("parts", "whole"))
        assert found.read_bytes() == expected.read_bytes()
    kept = [sorted(path.name for path in (tmp_path / n / "best").iterdir()) for n in ("parts", "whole")]
    assert [name.removesuffix(".previous") for name in kept[0]] == kept[1] == ["step=4.ckpt", "step=8.ckpt"]
    assert_equal(state(tmp_path / "parts")["state_dict"], state(tmp_path / "whole")["state_dict"])


@pytest.mark.slow
def test_promise_9_between_batches_whose_gradients_are_accumulated(tmp_path: Path) -> None:
    """A validation that falls between two of them: nothing is saved there, and nothing lost."""
    limits = {"max_epochs": 4, "accumulate_grad_batches": 2, "val_check_interval": 3}
    options: dict[str, Any] = {"kind": "rts", "limits": limits}
    fit(tmp_path / "whole", **options)
    fit(tmp_path / "parts", die_before=7, **options)
    fit(tmp_path / "parts", **options)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(state(tmp_path / "parts")[key], state(tmp_path / "whole")[key], key)


@pytest.mark.slow
def test_promise_5_another_training_is_refused_by_name(tmp_path: Path) -> None:
    fit(tmp_path, kind="rts", limits={"max_epochs": 1})
    done = spawn.start(train, tmp_path, {"kind": "classifier", "limits": {"max_epochs": 2}}, folder=tmp_path)
    assert done.wait(240) == 1
    assert "module: lightning_adv2.modules.rts.RTSModule before, " in done.stderr
    assert "ClassifierModule now" in done.stderr
    fit(tmp_path, kind="rts", limits={"max_epochs": 2})
    assert state(tmp_path)["epoch"] == 1, "more epochs are no other training"


@pytest.mark.slow
def test_another_seed_is_another_run_but_a_resumed_one_keeps_its_own(
    tmp_path: Path, unhurt: Callable[..., Path]
) -> None:
    options: dict[str, Any] = {"kind": "rts", "limits": EPOCHS}
    whole = unhurt(**options)
    fit(tmp_path / "other", seed=8, **options)
    assert diary(tmp_path / "other", 0) != diary(whole, 0)
    fit(tmp_path / "parts", die_before=9, **options)
    fit(tmp_path / "parts", seed=8, **options)
    assert_equal(state(tmp_path / "parts")["state_dict"], state(whole)["state_dict"])


@pytest.mark.slow
def test_promise_24_training_on_a_full_disk_fails_loudly_and_goes_on_later(
    small_disk: SmallDisk,  # noqa: F811
    tmp_path: Path,
    unhurt: Callable[..., Path],
) -> None:
    options: dict[str, Any] = {"kind": "rts", "every_n_steps": 2}
    whole = unhurt(**options, limits=EPOCHS)
    run = small_disk.folder / "run"
    fit(run, die_before=5, **options, limits=EPOCHS)
    small_disk.fill()
    done = spawn.start(train, run, options | {"limits": EPOCHS}, folder=tmp_path)
    assert done.wait(240) != 0
    assert "No space left" in done.stderr
    assert state(run)["global_step"] == 4
    small_disk.free()
    fit(run, **options, limits=EPOCHS)
    assert_equal(state(run)["state_dict"], state(whole)["state_dict"])


def test_where_it_lies_and_what_it_takes(tmp_path: Path) -> None:
    assert TrainingCheckpoint().file(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"
    assert TrainingCheckpoint(dirpath=str(tmp_path)).file("elsewhere") == tmp_path / "last.ckpt"
    assert TrainingCheckpoint().found(tmp_path) is None
    with pytest.raises(ValueError, match="every_n_steps=0"):
        TrainingCheckpoint(every_n_steps=0)


def test_one_training_per_folder_without_the_command_line_too(tmp_path: Path) -> None:
    folder, leave, seen = tmp_path / "run", tmp_path / "leave", []

    class Watcher(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append((folder / LOCK).is_file())

    def train() -> None:
        run = trainer(folder, TrainingCheckpoint(), Watcher(), max_epochs=1, enable_checkpointing=True)
        run.fit(ClassifierModule(victim()), shapes())

    other = start(folder, leave)
    with pytest.raises(FolderInUseError, match=f"in use by process {other.pid} on "):
        train()
    assert not (folder / "checkpoints").exists()
    leave.touch()
    assert other.wait(60) == 0
    train()
    assert seen == [True]
    assert not (folder / LOCK).exists()
