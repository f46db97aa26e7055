"""The command itself, with real runs of its own: trainings, evaluations, a failure, a signal, and the report."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import spawn
import yaml

from lightning_adv2.reproduction.execute import _alone
from lightning_adv2.reproduction.jobs import jobs_of
from lightning_adv2.reproduction.plan import read_plan

CLASSIFIER = {
    "class_path": "lightning_adv2.models.ResidualClassifier",
    "init_args": {"num_classes": 7, "stem_stride": 1, "widths": [8, 16]},
}


def small_plan(folder: Path) -> Path:
    """A training, an evaluation with its weights, one that cannot work, and one whose data are not there."""
    weights = folder / "classifier" / "classifier.safetensors"
    shapes = {
        "class_path": "lightning_adv2.data.ShapesDataModule",
        "init_args": {"image_size": 32, "num_train": 64, "num_test": 64},
    }
    trained = {**CLASSIFIER, "init_args": CLASSIFIER["init_args"] | {"weights": str(weights)}}
    module = {"class_path": "lightning_adv2.modules.ClassifierModule", "init_args": {"classifier": CLASSIFIER}}
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
    fit = {
        "model": module,
        "data": shapes,
        "trainer": {"default_root_dir": str(weights.parent), "max_steps": 2, **quiet},
    }
    callbacks = [
        {
            "class_path": "lightning_adv2.evaluation.AttackEvaluation",
            "init_args": {
                "attacks": [
                    {"class_path": "lightning_adv2.attacks.pgd", "init_args": {"steps": 5}},
                    {"class_path": "lightning_adv2.attacks.ADV2", "init_args": {"steps": 5}},
                ]
            },
        },
        {"class_path": "lightning_adv2.studies.TransferEvaluation"},
    ]
    interpreters = [{"class_path": f"lightning_adv2.interpreters.{name}"} for name in ("CAM", "Gradient")]
    idls = {
        "class_path": "lightning_adv2.modules.IDLS",
        "init_args": {"classifier": trained, "interpreter": interpreters},
    }
    data = {"class_path": "lightning_adv2.data.AttackDataModule", "init_args": {"source": shapes, "batch_size": 2}}
    test = {"model": idls, "data": data, "trainer": {"callbacks": callbacks, **quiet}}
    for name, content in {"fit": fit, "test": test}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    runs = {
        "classifier": {"role": "weights", "command": "fit", "config": str(folder / "fit.yaml"), "makes": str(weights)},
        "attacks": {"config": str(folder / "test.yaml"), "after": ["classifier"]},
        "stadv": {"config": str(folder / "test.yaml"), "set": {"model.init_args.classifier.init_args.weights": "gone"}},
        "skin": {"config": str(folder / "test.yaml"), "needs": str(folder / "nowhere")},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"title": "small", "output": str(folder / "out"), "num_images": 4, "runs": runs}))
    return path


def start(plan: Path, *words: str) -> spawn.Spawned:
    command = ["-m", "lightning_adv2", "reproduce", "--config", plan, *words]
    return spawn.start_python(*command, folder=plan.parent, WANDB_MODE="offline")


def said(process: spawn.Spawned, timeout: float) -> str:
    """All that the command has printed when it has ended."""
    process.wait(timeout)
    return process.stdout + process.stderr


@pytest.mark.slow
def test_it_runs_what_is_missing_keeps_what_is_finished_and_reports(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    process = start(plan, "--tables", "3,9,stadv,skin")
    told = said(process, 600)
    out = tmp_path / "out"
    assert process.returncode == 1, told  # 'stadv' failed, and says where to look
    (line,) = (line for line in told.splitlines() if line.endswith(f"see {out / 'logs' / 'stadv.log'}"))
    assert re.match(r"  stadv: error: .*gone", line), "the error itself, before the log"
    assert "attacks: finished" in told
    found = json.loads((out / "reproduction.json").read_text())
    rows = {tuple(row["place"]): row["measures"] for row in found["tables"]["3"]}
    results = json.loads((out / "attacks" / "results.json").read_text())["rows"]
    for row in results:  # what the evaluation's own table says
        if row["schedule"] != "control":
            cell = rows[row["classifier"], row["interpreter"], row["attack"]]["asr"]
            assert (cell["value"], cell["n"]) == (pytest.approx(row["asr"]), row["n"])
            assert cell["interval"][0] <= cell["value"] <= cell["interval"][1]
    decided = {one["number"]: one["verdict"] for one in found["observations"]}
    assert decided["1"] in ("held", "not held")
    assert decided["5"] == "not tested"
    assert set(decided) == {"1", "5", "7", "8"}, "those of the tables asked for"
    assert {one["number"]: one["evidence"] for one in found["observations"]}["5"].startswith("no finished run has")
    page = (out / "report.html").read_text()
    assert "Not run: this reproduction has no finished run for skin" in page
    assert "<img" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "attacks" / "figures" / "transfer.png").stat().st_size > 5_000

    # Again: the records are not touched, nothing finished runs again.
    records = {path: path.stat().st_mtime_ns for path in (out / "attacks" / "records").rglob("*.safetensors")}
    assert records
    process = start(plan, "--tables", "3")
    told = said(process, 300)
    assert process.returncode == 0, told
    assert "running" not in told
    assert {path: path.stat().st_mtime_ns for path in records} == records


@pytest.mark.slow
def test_a_signal_stops_the_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    process = start(plan, "--tables", "3")
    log = tmp_path / "out" / "logs" / "classifier.log"
    end = time.monotonic() + 200
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    told = said(process, 120)
    assert process.returncode != 0
    assert "the same command goes on" in told
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "out") not in listed, "a run outlived the command"
    process = start(plan, "--tables", "3")
    told = said(process, 600)
    assert process.returncode == 0, told
    assert "attacks: finished" in told


@pytest.mark.slow
def test_a_run_that_outlives_its_killed_command_keeps_others_off(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    process = start(plan, "--tables", "3")
    log = tmp_path / "out" / "logs" / "classifier.log"
    end = time.monotonic() + 200
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    second = start(plan, "--tables", "3")
    told = said(second, 200)
    if "another reproduction" in told:  # the first run was still at work
        assert second.returncode != 0
        while "another reproduction" in told and time.monotonic() < end + 200:
            second = start(plan, "--tables", "3")
            told = said(second, 400)
    assert second.returncode == 0, told


def test_two_reproductions_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with _alone(tmp_path / "logs") as lock:
        left_behind = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
        with pytest.raises(SystemExit, match="another reproduction"), _alone(tmp_path / "logs"):
            pass
    with pytest.raises(SystemExit, match="a run that it left behind"), _alone(tmp_path / "logs"):
        pass  # the command is gone, its run is not
    left_behind.kill()
    left_behind.wait()
    with _alone(tmp_path / "logs"):
        pass


def test_retrained_weights_make_an_evaluation_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = read_plan(small_plan(tmp_path))
    _, job = jobs_of(plan, {name: plan.runs[name] for name in ("classifier", "attacks")})
    weights = Path(plan.runs["classifier"].makes)
    for path in (weights, job.made, job.done_file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    job.done_file.write_text(json.dumps({"config_sha256": job.digest}))
    assert job.is_done()
    weights.write_text("others")
    assert not job.is_done()


def test_bad_options_are_refused_at_once(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    process = start(plan, "--tables", "7")
    told = said(process, 200)
    assert process.returncode != 0
    assert "there is no table '7'; take some of" in told
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_run(tmp_path: Path) -> None:
    process = start(small_plan(tmp_path), "--dry-run", "--tables", "3")
    told = said(process, 200)
    assert process.returncode == 0, told
    assert "classifier" in told
    assert "to do" in told
    assert "stadv" not in told
    assert not (tmp_path / "out").exists()
