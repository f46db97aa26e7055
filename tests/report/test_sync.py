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
from lightning_adv2.report.html.run_page import _flat
from lightning_adv2.report.wandb.files import sync_command
from lightning_adv2.report.wandb.start import wandb_logger
from lightning_adv2.report.wandb.sync import sync
from lightning_adv2.results.records import record_path
from report.runs import KEY, WANDB, check_report, history, make_run, offline_runs, summary
from report.wandb_server import Server, server

SCRIPT = Path(__file__).with_name("evaluate.py")
AXIS = "convergence/test/cam/attack_step"
RECORDS = (make_record(0, ["a", "b", "c"]), make_record(1, ["d"]))


def test_promise_15_sync_logs_once_however_often_it_is_called(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", list(RECORDS))
    said = sync(run.folder)
    (offline,) = offline_runs(run.folder)
    assert f"wandb sync {offline}" in said
    check_report(history(run.folder), steps=5)
    text = summary(offline)
    for row in run.summary.rows:
        name = row["attack"] if row["schedule"] == "control" else f"{row['attack']}-{row['schedule']}"
        assert f'"test/{name}/cam/iou": {row["iou"]}' in text
    again = sync(run.folder)
    assert "logged offline already, and not uploaded" in again
    assert f"wandb sync {offline}" in again
    assert "already" in sync(shutil.move(run.folder, tmp_path / "moved"))
    (moved,) = offline_runs(tmp_path / "moved")
    assert moved == tmp_path / "moved" / "wandb" / offline.name
    next(moved.glob("*.wandb")).with_suffix(".wandb.synced").touch()  # as 'wandb sync' leaves it
    assert sync(tmp_path / "moved").endswith("W&B has it already")


def test_the_marks_file_may_be_lost_between_two_calls(tmp_path: Path) -> None:
    run = make_run(tmp_path, list(RECORDS))
    sync(tmp_path)
    state = json.loads((tmp_path / "wandb.json").read_text())
    del state["reported"]  # as where the process was killed between the last row and the mark
    (tmp_path / "wandb.json").write_text(json.dumps(state))
    sync(run.folder)
    assert len(offline_runs(tmp_path)) == 2
    check_report(history(tmp_path), steps=5)


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    make_run(tmp_path, list(RECORDS), whole=False)
    record_path(tmp_path / "records", "cam", 1).unlink()
    sync(tmp_path)
    rows = history(tmp_path)
    assert not any(AXIS in row for row in rows), "W&B takes no point back, so curves must wait"
    (table,) = tmp_path.rglob("cam/*.table.json")
    assert [row[0] for row in json.loads(table.read_text())["data"]] == ["a", "b", "c"]
    assert (tmp_path / "figures" / "gallery.png").is_file()
    make_run(tmp_path, list(RECORDS))
    sync(tmp_path)
    rows = history(tmp_path)
    assert [row[AXIS] for row in rows if AXIS in row] == [1, 2, 3, 4, 5]
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
    """What the server has once 'wandb sync' has uploaded every offline run."""
    variables = os.environ | wandb_environment(folder / "home") | {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
    subprocess.run([WANDB, "sync", *offline_runs(folder)], env=variables, check=True, timeout=100, capture_output=True)
    (run_id,) = running.runs
    return running.history(run_id)


@pytest.mark.slow
@pytest.mark.parametrize("last", ["1", "4", "7"])
def test_promise_15_killed_while_it_logs_then_synced(last: str, tmp_path: Path) -> None:
    killed = evaluate(tmp_path, "test", "kill at row", last)
    assert killed.returncode == -9
    run = tmp_path / "run"
    assert (run / "results.json").is_file()
    assert "reported" not in json.loads((run / "wandb.json").read_text())
    killed = evaluate(tmp_path, "sync", "kill at row", "6")  # a sync that is killed as well, if it comes so far
    assert killed.returncode == (0 if last == "7" else -9)
    for _ in range(2):
        done = sync_process(tmp_path)
        assert done.returncode == 0, done.stderr
    check_report(history(run), steps=6)
    with server() as running:
        check_report(upload(run, running), steps=6)
    assert "already" in done.stdout


@pytest.mark.slow
def test_promise_15_killed_while_it_logs_then_run_again(tmp_path: Path) -> None:
    assert evaluate(tmp_path, "test", "kill at row", "3").returncode == -9
    again = evaluate(tmp_path, "test")
    assert again.returncode == 0, again.stderr
    done = sync_process(tmp_path)
    assert "already" in done.stdout, done.stderr
    check_report(history(tmp_path / "run"), steps=6)


@pytest.mark.slow
def test_promise_15_killed_online_then_synced(tmp_path: Path) -> None:
    with server() as running:
        online = {"WANDB_BASE_URL": running.url, "WANDB_API_KEY": KEY}
        # It sends what it has every 15 seconds.
        assert evaluate(tmp_path, "test", "kill at row", "4", PAUSE="25", **online).returncode == -9
        (run_id,) = running.runs
        assert sum("report/row" in row for row in running.history(run_id)) == 3
        for _ in range(2):
            done = sync_process(tmp_path, **online)
            assert done.returncode == 0, done.stderr
        assert list(running.runs) == [run_id]
        check_report(running.history(run_id), steps=6)
        assert "test/adv2-fast/cam/iou" in running.summary(run_id)
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
