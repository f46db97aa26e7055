from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import spawn
import torch
from full_disk import SmallDisk, small_disk

from lightning_adv2.runtime.checkpoint_io import CheckpointError, SealedCheckpointIO, fault, previous

__all__ = ["small_disk"]
IO = SealedCheckpointIO()


def content(number: int, size: int = 2000) -> dict[str, Any]:
    return {
        "number": number,
        "weights": torch.full((size,), float(number)),
        "nested": {"rate": 0.1, "names": ["a", "b"]},
    }


def is_whole(checkpoint: dict[str, Any], size: int = 2000) -> bool:
    return bool((checkpoint["weights"] == checkpoint["number"]).all()) and len(checkpoint["weights"]) == size


def in_folder(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_sealed_checkpoint_is_still_torchs_and_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    IO.save_checkpoint(content(3), path)
    assert is_whole(IO.load_checkpoint(path))
    assert torch.equal(torch.load(path, weights_only=True)["weights"], content(3)["weights"])
    assert torch.load(path, weights_only=True, mmap=True)["nested"] == content(3)["nested"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")
    assert in_folder(path.parent) == {"last.ckpt"}
    with pytest.raises(TypeError, match="storage_options"):
        IO.save_checkpoint(content(3), path, storage_options={})


def test_the_former_checkpoint_stays_beside_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for number in range(3):
        IO.save_checkpoint(content(number), path)
    assert in_folder(tmp_path) == {"last.ckpt", "last.ckpt.previous"}
    assert IO.load_checkpoint(path)["number"] == 2
    assert IO.load_checkpoint(previous(path))["number"] == 1
    IO.remove_checkpoint(path)
    assert not in_folder(tmp_path)
    IO.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt: no such checkpoint"):
        IO.load_checkpoint(path)


def test_a_damaged_file_does_not_replace_the_good_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for number in (1, 2):
        IO.save_checkpoint(content(number), path)
    path.write_bytes(path.read_bytes()[:-200])
    IO.save_checkpoint(content(3), path)
    assert IO.load_checkpoint(path)["number"] == 3
    assert IO.load_checkpoint(previous(path))["number"] == 1


def test_promise_7_bit_flips_and_truncations_fall_back_and_say_so(tmp_path: Path) -> None:
    path, rng = tmp_path / "last.ckpt", random.Random(0)
    for number in (1, 2):
        IO.save_checkpoint(content(number, size=300), path)
    good = path.read_bytes()
    damaged = [good[: rng.randrange(len(good))] for _ in range(19)] + [b""]
    for _ in range(100):
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    for number, bad in enumerate(damaged):
        path.write_bytes(bad)
        assert fault(path) is not None, number
        with pytest.warns(UserWarning, match=r"last\.ckpt .*(damaged|cut off).*last\.ckpt\.previous instead"):
            assert IO.load_checkpoint(path)["number"] == 1
    path.write_bytes(good)
    assert fault(path) is None
    kept = previous(path).read_bytes()
    previous(path).write_bytes(kept[:100])
    path.write_bytes(damaged[-1])
    with pytest.raises(CheckpointError, match=r"no intact last\.ckpt\.previous.*--ckpt_path"):
        IO.load_checkpoint(path)
    path.unlink()
    previous(path).write_bytes(kept)
    with pytest.warns(UserWarning, match="is missing"):
        assert IO.load_checkpoint(path)["number"] == 1


def test_a_checkpoint_without_a_seal_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(content(1), tmp_path / "plain.ckpt")
    with pytest.raises(CheckpointError, match=r"plain\.ckpt has no intact seal.*plugins=\[SealedCheckpointIO\(\)\]"):
        IO.load_checkpoint(tmp_path / "plain.ckpt")


class Command:
    """A pickle that runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("sealed", [True, False])
def test_promise_8_a_pickle_that_runs_a_command_runs_none(tmp_path: Path, sealed: bool) -> None:
    path, canary = tmp_path / "evil.ckpt", tmp_path / "canary"
    evil = {"state_dict": {}, "callbacks": {"x": Command(canary)}}
    if sealed:  # by somebody who knows how
        IO.save_checkpoint(evil, path)
    else:
        torch.save(evil, path)
    with pytest.raises(CheckpointError, match="more than plain data" if sealed else "no intact seal"):
        IO.load_checkpoint(path, weights_only=False)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the file is harmless, so the test shows nothing"


class Plain(pl.LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def validation_step(self, batch: torch.Tensor) -> None:
        self.layer(batch)


def test_promise_8_an_instantiator_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "evil_module.py").write_text(f"def run(*a, **k):\n    open({str(canary)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    hyper = {"width": 1, "_instantiator": "evil_module.run", "_class_path": "evil_module.run"}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path, plugins=[IO]
    )
    state = Plain().state_dict()
    version = pl.__version__
    IO.save_checkpoint(
        {"state_dict": state, "hyper_parameters": hyper, "pytorch-lightning_version": version}, tmp_path / "evil.ckpt"
    )
    data = torch.utils.data.DataLoader(torch.zeros(2, 1))
    trainer.validate(Plain(), data, ckpt_path=str(tmp_path / "evil.ckpt"), weights_only=False, verbose=False)
    assert not canary.exists()
    assert "evil_module" not in sys.modules


def test_promise_6_a_full_disk_leaves_the_old_one_and_is_loud(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "last.ckpt"
    for number in (1, 2):
        IO.save_checkpoint(content(number), path)
    before = small_disk.names()
    for size in (258_000, 1_000_000):  # full at the end, full at once
        with pytest.raises(OSError, match=r"No space left.*untouched.*last\.ckpt"):
            IO.save_checkpoint(content(3, size), path)
        assert small_disk.names() == before
        assert IO.load_checkpoint(path)["number"] == 2
        assert IO.load_checkpoint(previous(path))["number"] == 1


def test_promise_6_temporary_folder_on_another_file_system(small_disk: SmallDisk, tmp_path: Path) -> None:
    (small_disk.folder / "filler").write_bytes(b"x" * 900_000)
    target = tmp_path / "last.ckpt"
    spawn.run(IO.save_checkpoint, content(4, 200_000), target, folder=tmp_path, TMPDIR=small_disk.folder)
    assert is_whole(IO.load_checkpoint(target), 200_000)


def test_promise_6_an_unwritable_folder_is_loud(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    IO.save_checkpoint(content(1), folder / "last.ckpt")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        IO.save_checkpoint(content(2), tmp_path / "file" / "last.ckpt")
    mount = ["mount", "--bind", folder, folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        with pytest.raises(OSError, match=r"Read-only.*untouched.*last\.ckpt"):
            IO.save_checkpoint(content(2), folder / "last.ckpt")
        assert IO.load_checkpoint(folder / "last.ckpt")["number"] == 1
    finally:
        subprocess.run(["umount", folder], check=True)


def save_without_end(path: Path, number: int) -> None:
    while True:
        number += 1
        IO.save_checkpoint(content(number, 2_000_000), path)
        print(number, flush=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*going on with")
def test_promise_6_killed_while_saving_a_whole_one_is_always_there(tmp_path: Path) -> None:
    path, rng, kills, reported = tmp_path / "last.ckpt", random.Random(1), 20, 0
    for _ in range(kills):
        process = spawn.start(save_without_end, path, reported, folder=tmp_path)
        process.says("\n")
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        reported = max(map(int, process.stdout.split()))
        found = IO.load_checkpoint(path)
        assert is_whole(found, 2_000_000)
        assert found["number"] >= reported, "what was reported as saved is gone"
    print(f"{kills} kills, {reported} saves reported, {len(in_folder(tmp_path))} files left")
