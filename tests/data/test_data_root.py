"""A run is the same wherever ``data/`` of its configuration is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lab import run_python

from lightning_adv2.models import ResidualClassifier, save_weights


@pytest.fixture
def content(write_images: Callable[..., None], tmp_path: Path) -> dict[str, object]:
    """An evaluation of drawn images and of random weights, both below ``tmp_path / "here" / "data"``."""
    data = tmp_path / "here" / "data"
    for split in ("train", "val"):
        write_images(data / "mine", {"a": 3, "b": 3}, split=split)
    save_weights(ResidualClassifier(num_classes=2).state_dict(), data / "nets" / "small.safetensors")
    return {
        "model": {
            "class_path": "lightning_adv2.modules.IDLS",
            "init_args": {
                "classifier": {
                    "class_path": "lightning_adv2.models.ResidualClassifier",
                    "init_args": {"num_classes": 2, "weights": "data/nets/small.safetensors"},
                },
                "interpreter": "lightning_adv2.interpreters.CAM",
            },
        },
        "data": {
            "class_path": "lightning_adv2.data.AttackDataModule",
            "init_args": {
                "source": {
                    "class_path": "lightning_adv2.data.ImageFolderDataModule",
                    "init_args": {"root": "data/mine", "resize": 16, "crop": 16},
                },
                "num_images": 2,
                "batch_size": 2,
            },
        },
        "trainer": {
            "default_root_dir": str(tmp_path / "run"),
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [
                {
                    "class_path": "lightning_adv2.evaluation.AttackEvaluation",
                    "init_args": {"attacks": [{"class_path": "lightning_adv2.attacks.pgd", "init_args": {"steps": 2}}]},
                }
            ],
        },
    }


def test_a_run_is_the_same_by_every_spelling_of_the_path(
    content: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``data/`` in the current folder, then by the variable, then moved: the records of the first are kept."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(content))
    words = ["-m", "lightning_adv2", "test", "--config", str(config)]
    monkeypatch.delenv("LIGHTNING_ADV2_DATA", raising=False)
    first = run_python(*words, folder=tmp_path / "here")
    assert first.returncode == 0, first.stderr
    (record,) = (tmp_path / "run" / "records").rglob("batch_*.safetensors")
    written = record.stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path / "here" / "data", tmp_path / "there"):
        monkeypatch.setenv("LIGHTNING_ADV2_DATA", str(folder))
        if not folder.exists():
            (tmp_path / "here" / "data").rename(folder)
        again = run_python(*words, folder=tmp_path / "elsewhere")
        assert again.returncode == 0, again.stderr
        assert record.stat().st_mtime_ns == written
        assert str(folder / "mine") in (tmp_path / "run" / "config.yaml").read_text()
