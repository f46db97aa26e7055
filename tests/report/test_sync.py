from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import wandb
from build_records import make_record
from lab import run_python, wandb_environment

from lightning_adv2.cli import main
from lightning_adv2.files import write_json
from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.report.html.run_page import _flat
from lightning_adv2.report.wandb.files import sync_command, upload_command
from lightning_adv2.report.wandb.start import wandb_logger
from lightning_adv2.report.wandb.sync import sync
from lightning_adv2.results.records import record_path
from report.runs import (
    KEY,
    WANDB,
    Probe,
    check_report,
    history,
    make_run,
    offline_runs,
    offline_tables,
    reports,
    summary,
)
from report.wandb_server import Server, server

SCRIPT = Path(__file__).with_name("evaluate.py")
RECORDS = (make_record(0, ["a", "b", "c"]), make_record(1, ["d"]))


def test_promise_15_sync_logs_once_however_often_it_is_called(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", list(RECORDS))
    said = sync(run.folder)
    (offline,) = offline_runs(run.folder)
    assert f"wandb sync {offline}" in said
    check_report(run.folder, steps=5)
    text = summary(offline)
    for row in run.summary.rows:
        name = row["attack"] if row["schedule"] == "control" else f"{row['attack']}-{row['schedule']}"
        assert f'"test/{name}/cam/iou": {row["iou"]}' in text
    again = sync(run.folder)
    assert "already logged" in again
    assert f"wandb sync {offline}" in again
    assert "already" in sync(shutil.move(run.folder, tmp_path / "moved"))
    (moved,) = offline_runs(tmp_path / "moved")
    assert moved == tmp_path / "moved" / "wandb" / offline.name
    next(moved.glob("*.wandb")).with_suffix(".wandb.synced").touch()  # as 'wandb sync' leaves it
    assert sync(tmp_path / "moved").endswith("already logged to W&B"), "and there is nothing to upload"


def test_what_is_logged_is_what_the_folder_says(tmp_path: Path) -> None:
    """A figure or another table makes another report; a stamp with another time does not."""
    make_run(tmp_path, list(RECORDS))
    sync(tmp_path)
    write_json(tmp_path / "stamp.json", {"time": "later"})
    assert "already" in sync(tmp_path)
    before = (tmp_path / "figures" / "gallery.png").read_bytes()
    (tmp_path / "figures" / "gallery.png").unlink()
    assert "already" in sync(tmp_path)
    assert (tmp_path / "figures" / "gallery.png").read_bytes() == before, "a figure that is missing is drawn"
    write_findings(tmp_path, Probe, Findings([{"interpreter": "x", "iou": 0.5}]))
    assert "logged offline" in sync(tmp_path)
    assert "already" in sync(tmp_path)
    first, second = reports(history(tmp_path))
    assert first.items() <= second.items()
    assert offline_tables(tmp_path)["studies/test/probe/table"] == [{"interpreter": "x", "iou": 0.5}]


def test_a_row_that_is_logged_again_is_the_same(tmp_path: Path) -> None:
    """As where the process was killed between the end of the W&B run and ``wandb.json``: no panel changes by it."""
    make_run(tmp_path, list(RECORDS))
    sync(tmp_path)
    tables, state = offline_tables(tmp_path), json.loads((tmp_path / "wandb.json").read_text())
    del state["logged"]
    write_json(tmp_path / "wandb.json", state)
    assert "logged offline" in sync(tmp_path)
    one, two = offline_runs(tmp_path)
    first, second = reports(history(tmp_path))
    assert first == second
    assert offline_tables(tmp_path) == tables
    media = [{path.name.rsplit("_", 1)[1] for path in (run / "files" / "media").rglob("*.*")} for run in (one, two)]
    assert media[0] == media[1], "W&B names media by their content"
    values = [
        {k: v for k, v in json.loads(summary(run))["summary"].items() if isinstance(v, float)} for run in (one, two)
    ]
    assert len(values[0]) > 30
    assert {k: v for k, v in values[0].items() if k[0] != "_"} == {k: v for k, v in values[1].items() if k[0] != "_"}


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    make_run(tmp_path, list(RECORDS), whole=False)
    record_path(tmp_path / "records", "cam", 1).unlink()
    sync(tmp_path)
    assert [row["image"] for row in offline_tables(tmp_path)["images/test/cam/table"]] == ["a", "b", "c"]
    assert (tmp_path / "figures" / "gallery.png").is_file()
    make_run(tmp_path, list(RECORDS))
    sync(tmp_path)
    assert [row["image"] for row in offline_tables(tmp_path)["images/test/cam/table"]] == ["a", "b", "c", "d"]
    run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert all(run_id in path.name for path in offline_runs(tmp_path)), "one W&B run"


def test_what_cannot_be_synced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fit" / "checkpoints").mkdir(parents=True)
    run = make_run(tmp_path / "run", list(RECORDS))
    with pytest.raises(SystemExit) as stopped:
        main(["sync", str(tmp_path / "fit"), str(run.folder)])
    assert "holds no evaluation" in str(stopped.value.code)
    assert str(tmp_path / "fit") in str(stopped.value.code)
    assert "logged offline" in capsys.readouterr().out, "the second one is synced all the same"
    assert not (tmp_path / "fit" / "wandb.json").exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, list(RECORDS))
    path = record_path(tmp_path / "records", "cam", 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="batch_00000"):
        sync(tmp_path)


def evaluate(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_python(SCRIPT, folder / "run", *words, folder=folder, **environment)


def sync_process(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "lightning_adv2", "sync", folder / "run", folder=folder, **environment)


def upload(folder: Path, running: Server) -> list[dict[str, Any]]:
    """What the server has once 'wandb sync' was called for every offline run."""
    variables = os.environ | wandb_environment(folder / "home") | {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
    subprocess.run([WANDB, "sync", *offline_runs(folder)], env=variables, check=True, timeout=100, capture_output=True)
    (run_id,) = running.runs
    return running.history(run_id)


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_start_that_a_kill_cut_off_is_repaired(tmp_path: Path) -> None:
    """Why starts are repaired: W&B's own upload stops at the cut and sends what comes before it again each time."""
    for name in ("as it is", "repaired"):
        for loss in (1.0, 2.0):
            logger = wandb_logger(tmp_path / name)
            logger.log_metrics({"loss": loss})
            logger.experiment.log({"filler": "x" * 50_000})
            assert logger.close()
        (file,) = offline_runs(tmp_path / name)[0].glob("*.wandb")
        os.truncate(file, 32768)  # W&B writes in blocks of this size
    with server() as running:
        assert losses(upload(tmp_path / "as it is", running)) == [1.0]
        assert losses(upload(tmp_path / "as it is", running)) == [1.0, 1.0]
    line = shlex.split(upload_command(tmp_path / "repaired"))
    assert line == ["wandb", "sync", *map(str, offline_runs(tmp_path / "repaired"))]
    with server() as running:
        for _ in range(2):
            assert losses(upload(tmp_path / "repaired", running)) == [1.0, 2.0]
    assert upload_command(tmp_path / "repaired") == ""


def test_a_start_of_which_nothing_is_whole_is_deleted(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        logger = wandb_logger(tmp_path)
        logger.log_metrics({"loss": loss})
        assert logger.close()
    first, second = offline_runs(tmp_path)
    os.truncate(next(first.glob("*.wandb")), 7)
    assert shlex.split(upload_command(tmp_path)) == ["wandb", "sync", str(second)]
    assert not first.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "rows"), [("before", 1), ("after", 2), ("closing", 2)])
def test_promise_15_killed_while_it_logs_then_synced(moment: str, rows: int, tmp_path: Path) -> None:
    """Killed in an evaluation and again in a sync; the row that got to the disk without a mark is there once more."""
    run = tmp_path / "run"
    assert evaluate(tmp_path, "test", moment).returncode == -9
    assert (run / "results.json").is_file()
    assert "logged" not in json.loads((run / "wandb.json").read_text())
    assert evaluate(tmp_path, "sync", "before").returncode == -9
    for _ in range(2):
        done = sync_process(tmp_path)
        assert done.returncode == 0, done.stderr
    assert "already" in done.stdout
    found = reports(history(run))
    assert [one == found[0] for one in found] == [True] * rows
    with server() as running:
        assert reports(upload(run, running)) == found


@pytest.mark.slow
def test_promise_15_killed_while_it_logs_then_run_again(tmp_path: Path) -> None:
    assert evaluate(tmp_path, "test", "before").returncode == -9
    for _ in range(2):
        again = evaluate(tmp_path, "test")
        assert again.returncode == 0, again.stderr
    done = sync_process(tmp_path)
    assert "already" in done.stdout, done.stderr
    check_report(tmp_path / "run", steps=6)


@pytest.mark.slow
def test_promise_15_killed_online_then_synced(tmp_path: Path) -> None:
    with server() as running:
        online = {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
        assert evaluate(tmp_path, "test", "closing", **online).returncode == -9
        (run_id,) = running.runs
        before = running.summary(run_id)
        assert len(reports(running.history(run_id))) == 1
        for _ in range(2):
            done = sync_process(tmp_path, **online)
            assert done.returncode == 0, done.stderr
        assert list(running.runs) == [run_id]
        first, second = reports(running.history(run_id))
        assert first == second
        after = running.summary(run_id)
        means = [key for key, value in before.items() if key.startswith(("test/", "summary/"))]
        assert "test/adv2-fast/cam/iou" in means
        assert [after[key] for key in means] == [before[key] for key in means]
    assert "already" in done.stdout


def test_wandb_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, list(RECORDS))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(RuntimeError, match="did not take it"):
        sync(run.folder)
    assert wandb.run is None


HOSTILE = "it's $HOME; touch spoilt & (a b)"


def arguments(line: str, folder: Path) -> list[str]:
    """What a shell makes of a printed line, for a program that only says what it is given."""
    for name in ("wandb", "lightning-adv2"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        program.chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": "/"}
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, cwd=folder, env=environment)
    assert not done.stderr
    assert not (folder / "spoilt").exists()
    return done.stdout.splitlines()


def test_printed_lines_survive_a_shell_whatever_the_folder_is_called(tmp_path: Path) -> None:
    run = make_run(tmp_path / HOSTILE, list(RECORDS))
    said = sync(run.folder)
    (offline,) = offline_runs(run.folder)
    assert arguments(said.splitlines()[-1], tmp_path) == ["sync", str(offline)]
    assert arguments(sync(run.folder).splitlines()[-1], tmp_path) == ["sync", str(offline)]
    assert arguments(sync_command(run.folder), tmp_path) == ["sync", str(run.folder)]


def said(caught: pytest.WarningsRecorder, before: str) -> str:
    """The line that the one warning about W&B ends with."""
    (text,) = [str(one.message) for one in caught if "W&B does not work" in str(one.message)]
    assert before in text
    return text.rpartition(before)[2]


def test_warnings_lines_survive_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that W&B refuses at once; the folders of offline runs are found by the shell itself."""
    folder = tmp_path / HOSTILE
    (folder / "wandb" / "offline-run-1-a").mkdir(parents=True)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "no key")
    with pytest.warns(UserWarning, match="W&B does not work") as caught:
        wandb_logger(folder).close()
    assert arguments(said(caught, "upload it later by: "), tmp_path)[:2] == [
        "sync",
        f"{folder}/wandb/offline-run-1-a",
    ]
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(folder)
    with pytest.warns(UserWarning, match="W&B does not work") as caught:
        logger.log_metrics({"loss": object()})  # type: ignore[dict-item] - W&B raises a TypeError
    assert arguments(said(caught, "an evaluation by: "), tmp_path) == ["sync", str(folder)]
    logger.close()


def test_the_stamps_command_can_be_copied_from_the_page() -> None:
    words = ["lightning-adv2", "test", "--config", f"{HOSTILE}.yaml"]
    (shown,) = _flat({"command": words})
    assert shlex.split(shown[1]) == words
