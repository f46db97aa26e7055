from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import wandb
from build_records import make_record
from lab import attack_data, idls, run_python, trainer, wandb_environment
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.loggers import CSVLogger

from lightning_adv2.attacks import pgd
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.run import damaged, record_paths
from lightning_adv2.report import default_logger, wandb_logger, write_figures
from lightning_adv2.report.wandb.files import read_state
from lightning_adv2.report.wandb.logger import RunLogger
from lightning_adv2.report.wandb.sync import log_run
from lightning_adv2.results import BatchRecord
from lightning_adv2.runtime.experiment import DifferentExperimentError
from lightning_adv2.runtime.ownership import FolderInUseError, owned
from report.runs import CLASSES, KEY, WANDB, check_report, has, history, make_run, offline_runs, offline_tables, reports
from report.wandb_server import server

NETWORKS = ("cam", "rts")
SCRIPT = Path(__file__).with_name("evaluate.py")


def log(folder: Path, *records: BatchRecord) -> None:
    run = make_run(folder, list(records) or [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])])
    write_figures(folder / "figures", run.records, run.summary, CLASSES)
    log_run(wandb_logger(folder, name="test"), run)
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


def test_a_broken_setting_of_wandb_leaves_csv_files(tmp_path: Path) -> None:
    code = f"from lightning_adv2.report import default_logger; print(type(default_logger({str(tmp_path)!r})).__name__)"
    done = run_python("-c", code, folder=tmp_path, WANDB_SILENT="perhaps")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "CSVLogger\n"
    assert "goes on with CSV files" in done.stderr


def test_mode_disabled_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(tmp_path).experiment.disabled


def test_what_an_evaluation_logs(tmp_path: Path) -> None:
    log(tmp_path)
    (row,) = history(tmp_path)
    for key in (
        "images/test/cam/table", "images/test/cam/overlays", "images/test/cam/gallery", "images/test/cam/convergence",
        "results/test/agreement", "results/test/table",
    ):  # fmt: skip
        assert has(row, key), key
    media = list((tmp_path / "wandb").rglob("media/**/*.*"))
    assert sum(path.suffix == ".png" for path in media) >= 3 + 6
    table = offline_tables(tmp_path)["images/test/cam/table"]
    assert list(table[0])[:3] == ["image", "label", "target"]
    assert [line["image"] for line in table] == ["a", "b", "c", "d"]
    assert "adv2-fast map" in table[0]
    assert not any(column.startswith("noise") for column in table[0]), "a control is not a panel"


def test_pictures_of_several_interpreters(tmp_path: Path) -> None:
    log(tmp_path, *(make_record(0, ["a", "b"], interpreter=name, place=i) for i, name in enumerate(NETWORKS)))
    for name in NETWORKS:
        check_report(tmp_path, 5, name)
    (row,) = history(tmp_path)
    assert has(row, "results/test/overview")


def test_a_folder_keeps_its_wandb_run(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        logger = wandb_logger(tmp_path / "run")
        logger.log_metrics({"loss": loss})
        assert logger.close()
    first, second = offline_runs(tmp_path / "run")
    run_id = read_state(tmp_path / "run")["id"]
    assert run_id in first.name
    assert run_id in second.name
    assert [row["loss"] for row in history(tmp_path / "run")] == [1.0, 2.0]
    with server() as running:
        environment = wandb_environment(tmp_path / "home") | {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
        for _ in range(2):
            command = [WANDB, "sync", first, second]
            subprocess.run(command, env=os.environ | environment, check=True, timeout=60, capture_output=True)
        ((_, files),) = running.runs.items()
        assert len(files["wandb-history.jsonl"]) == 2, "one run with both rows"


def test_what_is_open_is_not_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = default_logger(tmp_path)  # of which the disk has nothing yet
    assert isinstance(logger, RunLogger)
    assert logger.offline
    logger.connect()
    logger.log_metrics({"loss": 1.0})
    other = RunLogger(tmp_path, "p", None, True)
    other.log_metrics({"loss": 2.0})
    logger.log_metrics({"loss": 3.0})
    assert logger.close()
    assert [row["loss"] for row in history(tmp_path)] == [1.0, 2.0, 3.0]


def test_another_process_may_not_log_to_the_same_run(tmp_path: Path) -> None:
    logger = wandb_logger(tmp_path)
    logger.log_metrics({"loss": 1.0})
    code = f"from lightning_adv2.report import default_logger; print(type(default_logger({str(tmp_path)!r})).__name__)"
    done = run_python("-c", code, folder=tmp_path)
    assert done.stdout == "CSVLogger\n", done.stderr
    assert f"another process logs to the W&B run of {tmp_path}" in done.stderr
    assert logger.close()
    assert [row["loss"] for row in history(tmp_path)] == [1.0]


def evaluated(folder: Path, num_images: int, *callbacks: Callback) -> list[Path]:
    """The offline runs of a folder after an evaluation with the default logger, refused or not."""
    logger = default_logger(folder)
    assert isinstance(logger, RunLogger)
    try:
        loop = trainer(folder, AttackEvaluation([pgd(steps=1)]), *callbacks, logger=logger)
        loop.test(idls("cam"), attack_data(num_images=num_images), verbose=False)
    finally:
        assert logger.close()
    return offline_runs(folder)


class Extra(Callback):
    """Logs a value that no file has."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_test_epoch_end(self, trainer: object, pl_module: LightningModule) -> None:
        pl_module.log("extra", self.value)


def test_only_what_is_new_starts_a_wandb_run(tmp_path: Path) -> None:
    """Neither a run that is refused does, nor one that finds all of its results and values logged."""
    (first,) = evaluated(tmp_path, 4)
    state = read_state(tmp_path)
    assert set(state["logged"]) == {"evaluation", "values"}
    assert any("test/pgd-fast/cam/iou" in row for row in history(tmp_path))
    with pytest.raises(DifferentExperimentError, match="belongs to another experiment"):
        evaluated(tmp_path, 6)
    with ThreadPoolExecutor(1) as other:  # a folder has one owner, which is a thread
        owner = owned(tmp_path)
        other.submit(owner.__enter__).result()
        with pytest.raises(FolderInUseError, match="is in use by"):
            evaluated(tmp_path, 4)
        other.submit(owner.__exit__, None, None, None).result()
    assert evaluated(tmp_path, 4) == [first]
    assert read_state(tmp_path) == state

    again = evaluated(tmp_path, 4, Extra(0.5))
    assert len(again) == 2
    assert [row["extra"] for row in history(tmp_path) if "extra" in row] == [0.5]
    assert sum(has(row, "results/test/table") for row in history(tmp_path)) == 1, "the evaluation is there"
    assert evaluated(tmp_path, 4, Extra(0.5)) == again
    assert len(evaluated(tmp_path, 4, Extra(0.25))) == 3
    record_paths(tmp_path / "records")[0].unlink()
    assert len(evaluated(tmp_path, 4, Extra(0.25))) == 4, "an attack is logged while it runs"


def test_two_folders_in_one_process_have_a_run_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        logger = wandb_logger(tmp_path / name)
        logger.log_metrics({name: 1.0})
    assert logger.close()
    for name, other in ("ab", "ba"):
        (row,) = history(tmp_path / name)
        assert name in row
        assert other not in row


def test_an_error_of_wandb_is_one_warning(tmp_path: Path) -> None:
    logger = wandb_logger(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            logger.log_metrics({"loss": object()})  # type: ignore[dict-item] - W&B raises a TypeError
    (text,) = [str(warning.message) for warning in caught if "W&B" in str(warning.message)]
    assert text.endswith(f"goes on, offline; complete W&B's report of an evaluation by: lightning-adv2 sync {tmp_path}")
    logger.log_metrics({"loss": 1.0})
    logger.log_hyperparams({"a": 1})
    assert logger.experiment.anything(1) is None


def evaluate(folder: Path, task: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real run, which must come to its end whatever W&B does, with one warning."""
    done = run_python(SCRIPT, folder / "run", task, *words, folder=folder, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert done.stderr.count("W&B does not work") == 1, done.stderr
    assert "Traceback" not in done.stderr
    if task == "test":
        results = json.loads((folder / "run" / "results.json").read_text())
        assert [row["n"] for row in results["rows"]] == [8] * 4
        assert [damaged(path) for path in record_paths(folder / "run" / "records")] == [None] * 2
    return done


@pytest.mark.slow
@pytest.mark.parametrize("key", ["too-short-canary", f"{KEY}\n"])
def test_promise_15_a_malformed_key(key: str, tmp_path: Path) -> None:
    done = evaluate(tmp_path, "test", WANDB_API_KEY=key)
    assert key.strip() not in done.stdout + done.stderr
    check_report(tmp_path / "run", steps=6)


@pytest.mark.slow
def test_promise_15_a_key_that_is_refused(tmp_path: Path) -> None:
    with server(refuse=True) as running:
        done = evaluate(tmp_path, "test", WANDB_BASE_URL=running.url, WANDB_API_KEY=KEY)
        assert running.requests
    assert KEY not in done.stdout + done.stderr
    check_report(tmp_path / "run", steps=6)


@pytest.mark.slow
def test_promise_15_an_unreachable_server(tmp_path: Path) -> None:
    evaluate(tmp_path, "test", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY)
    check_report(tmp_path / "run", steps=6)


@pytest.mark.slow
def test_promise_15_a_server_that_goes_away(tmp_path: Path) -> None:
    with server() as running:

        def stop() -> None:
            while not (tmp_path / "go.reached").exists():
                time.sleep(0.1)
            running.stop()
            (tmp_path / "go").touch()

        threading.Thread(target=stop, daemon=True).start()
        evaluate(tmp_path, "test", "wait", tmp_path / "go", WANDB_BASE_URL=running.url, WANDB_API_KEY=KEY)
    check_report(tmp_path / "run", steps=6)
    with server() as running:  # it is back, and knows of nothing
        environment = {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
        done = run_python("-m", "lightning_adv2", "sync", tmp_path / "run", folder=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        assert "already logged" in done.stdout
        _, *words = shlex.split(done.stdout.splitlines()[-1])
        for _ in range(2):
            variables = os.environ | wandb_environment(tmp_path / "home") | environment
            subprocess.run([WANDB, *words], env=variables, check=True, timeout=60, capture_output=True)
        ((run_id, _),) = running.runs.items()
        assert len(reports(running.history(run_id))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["test", "fit"])
def test_promise_15_the_service_is_killed(task: str, tmp_path: Path) -> None:
    evaluate(tmp_path, task, "kill service")
    if task == "test":
        check_report(tmp_path / "run", steps=6)
    else:
        rows = history(tmp_path / "run")
        assert [row["epoch"] for row in rows if "val/loss" in row] == [0, 1], "the rest is logged, under the same id"


@pytest.mark.slow
@pytest.mark.parametrize(("task", "size"), [("test", "64k"), ("test", "256k"), ("fit", "8k"), ("fit", "20k")])
def test_promise_15_a_full_disk_under_wandb(task: str, size: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "wandb"
    folder.mkdir(parents=True)
    with mounted(folder, size):
        done = run_python(SCRIPT, tmp_path / "run", task, folder=tmp_path)
        free = os.statvfs(folder).f_bavail
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert free == 0, "the disk was to be full"
    if task == "test":
        assert [damaged(path) for path in record_paths(tmp_path / "run" / "records")] == [None] * 2
        synced = run_python("-m", "lightning_adv2", "sync", tmp_path / "run", folder=tmp_path)
        assert synced.returncode == 0, synced.stderr
        check_report(tmp_path / "run", steps=6)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small file system of its own at ``folder``."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes root's rights")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_nothing_is_written_into_the_home_folder(tmp_path: Path) -> None:
    log(tmp_path / "run")
    home = Path(os.environ["HOME"])
    assert not (home / ".netrc").exists()
    assert not (home / "wandb").exists()
