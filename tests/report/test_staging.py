"""Where W&B keeps what an offline run uploads later: in the run's folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import wandb
from build_records import make_record

from lightning_adv2.report import wandb_logger, write_figures
from lightning_adv2.report.finish import finish
from lightning_adv2.report.wandb.logger import RunLogger
from report.runs import CLASSES, inspect, make_run, offline_runs


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and no word of where W&B's data go."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("WANDB_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def referred(folder: Path) -> list[Path]:
    """The files that the artifacts of a folder's offline runs are made of."""
    records = [record for run in offline_runs(folder) for record in inspect(run) if record["type"] == "artifact"]
    entries = [entry for record in records for entry in record["artifact"]["manifest"]["contents"]]
    return [Path(entry["local_path"]) for entry in entries]


def pictures(paths: list[Path]) -> int:
    """How many of the files are there and begin as a PNG does."""
    return sum(path.read_bytes().startswith(b"\x89PNG") for path in paths if path.is_file())


def log_table(logger: RunLogger) -> None:
    shown = [[wandb.Image(np.full((2, 2, 3), value, np.uint8))] for value in (10, 20, 30)]
    logger.experiment.log({"table": wandb.Table(columns=["image"], data=shown)})


def test_everything_of_an_offline_run_lies_in_its_folder(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make_run(folder, [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])])
    logger = wandb_logger(folder)
    write_figures(folder / "figures", run.records, run.summary, CLASSES)
    finish(run, logger)
    assert logger.close()
    paths = referred(folder)
    assert [path for path in paths if not path.resolve().is_relative_to(folder) or not path.is_file()] == []
    assert pictures(paths) >= 4 * 5, "images, overlays and perturbations of the table, and the page's figures"
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert "WANDB_DATA_DIR" not in os.environ


def test_each_run_of_a_process_has_its_own(tmp_path: Path) -> None:
    loggers = [wandb_logger(tmp_path / name) for name in ("first", "second")]
    for logger in loggers:
        log_table(logger)  # the second closes the first
    loggers[1].close()
    for name in ("first", "second"):
        paths = referred(tmp_path / name)
        assert pictures(paths) == 3
        assert all(path.is_relative_to(tmp_path / name / "wandb") for path in paths)
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_users_own_place_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "scratch"))
    logger = wandb_logger(tmp_path / "run")
    log_table(logger)
    logger.close()
    assert all(path.is_relative_to(tmp_path / "scratch") for path in referred(tmp_path / "run"))
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "scratch")


def test_after_a_failure_too(tmp_path: Path) -> None:
    logger, calls = wandb_logger(tmp_path / "run"), []

    def act() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            logger.connect()
            raise RuntimeError("the server is gone")
        log_table(logger)

    with pytest.warns(UserWarning, match="the server is gone"):
        logger.attempt(act)
    assert logger.close()
    paths = referred(tmp_path / "run")
    assert pictures(paths) == 3
    assert all(path.is_relative_to(tmp_path / "run" / "wandb") for path in paths)
    assert "WANDB_DATA_DIR" not in os.environ
