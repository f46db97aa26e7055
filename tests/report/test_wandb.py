from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from callbacks.lab import run_python
from pytorch_lightning.loggers import CSVLogger

from lightning_adv2.report import default_logger, summarize, wandb_logger, write_figures
from lightning_adv2.report.results import mean_traces
from lightning_adv2.report.wandb_panels import log_evaluation, log_pictures
from report.build import NAMES, make_record

KEY = "c0ffee" * 6 + "beef"  # 40 characters, as a real one
CLASSES = ("disk", "ring", "star")


def inspect(folder: Path, *options: str) -> list[Any]:
    """An offline run read back with W&B's own reader."""
    wandb = Path(sys.executable).with_name("wandb")
    (run,) = (folder / "wandb").glob("offline-run-*")
    done = subprocess.run(
        [wandb, "leet", "inspect", *options, "--json", run], capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def log(folder: Path) -> None:
    import wandb

    records = [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])]
    pictures = write_figures(folder / "figures", records, summarize(records, NAMES), CLASSES)
    logger = wandb_logger(folder, name="test")
    log_evaluation(logger, records, mean_traces(records), pictures, CLASSES, "test/cam")
    wandb.finish()


def test_without_a_key_it_is_offline(tmp_path: Path) -> None:
    logger = wandb_logger(tmp_path / "new" / "run")
    assert logger.experiment.offline
    assert (tmp_path / "new" / "run" / "wandb").is_dir()


def test_default_logger_is_wandb_named_after_the_folder(tmp_path: Path) -> None:
    logger = default_logger(tmp_path / "my_run")
    assert logger.experiment.name == "my_run"


def test_without_wandb_installed_there_are_csv_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = default_logger(tmp_path)
    assert isinstance(logger, CSVLogger)


def test_mode_disabled_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(tmp_path).experiment.disabled


def test_what_an_evaluation_logs(tmp_path: Path) -> None:
    log(tmp_path)
    text = json.dumps(inspect(tmp_path))
    for key in (
        "test/cam/curve/adv2-fast/l1", "test/cam/curve/adv2-fast/asr", "test/cam/attack_step", "test/cam/images",
        "test/cam/overlays", "test/cam/figures/gallery", "test/cam/figures/agreement", "test/cam/figures/convergence",
    ):  # fmt: skip
        assert key in text, key
    media = list((tmp_path / "wandb").rglob("media/**/*.*"))
    assert sum(path.suffix == ".png" for path in media) >= 3 + 6
    (table,) = [path for path in media if path.name.endswith(".table.json")]
    content = json.loads(table.read_text())
    assert content["columns"][:3] == ["image", "label", "target"]
    assert [row[0] for row in content["data"]] == ["a", "b", "c", "d"]
    assert "adv2-fast map" in content["columns"]
    assert not any(column.startswith("noise") for column in content["columns"]), "a control is not a panel"


def test_pictures_of_several_interpreters(tmp_path: Path) -> None:
    import wandb

    records = [make_record(0, ["a", "b"], interpreter=name) for name in ("cam", "rts")]
    pictures = write_figures(tmp_path / "figures", records, summarize(records, NAMES), CLASSES)
    log_pictures(wandb_logger(tmp_path), [path for path in pictures if path.parent.name == "figures"], "test")
    wandb.finish()
    text = json.dumps(inspect(tmp_path))
    assert "test/figures/agreement" in text
    assert "test/figures/overview" in text


def test_a_key_reaches_no_file_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_canary_of_the_tests")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert b"hf_canary_of_the_tests" not in content, path


UNREACHABLE = """
import sys, time, warnings
from lightning_adv2.report import wandb_logger
start = time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    logger = wandb_logger(sys.argv[1])
    logger.log_metrics({"loss": 1.0})
assert logger.experiment.offline, "online"
assert any("out of reach" in str(w.message) and "offline" in str(w.message) for w in caught), caught
print("seconds", time.perf_counter() - start)
"""


@pytest.mark.slow
def test_an_unreachable_server_does_not_stop_the_run(tmp_path: Path) -> None:
    # In a process of its own: the environment is read when W&B starts.
    done = run_python(
        "-c", UNREACHABLE, tmp_path, folder=tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_malformed_key_does_not_stop_the_run(tmp_path: Path) -> None:
    done = run_python("-c", UNREACHABLE, tmp_path, folder=tmp_path, WANDB_API_KEY="too-short")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    log(tmp_path / "run")
    home = Path(os.environ["HOME"])
    assert not (home / ".netrc").exists()
    assert not (home / "wandb").exists()
