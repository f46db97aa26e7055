"""What W&B shows without a click, read back from real offline runs by W&B's own reader."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import wandb
from build_records import make_record

from lightning_adv2.files import write_json
from lightning_adv2.models import save_weights
from lightning_adv2.modules import AIDModule, ClassifierModule, RTSModule
from lightning_adv2.report import wandb_logger
from lightning_adv2.report.finish import finish
from lightning_adv2.report.wandb import artifacts as wandb_artifacts
from lightning_adv2.report.wandb.about import as_tags, job_type_of
from lightning_adv2.report.wandb.files import read_state
from lightning_adv2.report.wandb.panels import log_run
from lightning_adv2.report.wandb.sync import sync
from lightning_adv2.results.run import Run
from report.runs import has, history, inspect, make_run, offline_runs

NETWORKS = ("cam", "rts")
LEVEL = {"kind": "normal", "rate": 0.1, "level": 0.1, "images": 3, "misclassified": 1, "rate_reached": 1 / 3}
MOVED = {"interpreter": "cam", "kind": "normal", "rate": 0.1, "n": 3, "invalid": 0}
NOISE = {"levels": [LEVEL], "rows": [MOVED | {"l1": 0.1, "iou": 0.5, "l1_predicted": 0.1, "iou_predicted": 0.5}]}


def whole_run(folder: Path) -> Run:
    """Two interpreters, and what a study would have left."""
    run = make_run(
        folder, [make_record(0, ["a", "b", "c"], interpreter=name, place=i) for i, name in enumerate(NETWORKS)]
    )
    write_json(folder / "stamp.json", {"seed": 3, "git_revision": "abc"})
    write_json(folder / "noise.json", NOISE)
    write_json(folder / "map_quality.json", {"cam": {"gap": 0.25}})
    (folder / "figures").mkdir()
    plt.imsave(folder / "figures" / "noise.png", torch.rand(8, 8, 3).numpy())
    return run


def log(run: Run) -> dict[str, str]:
    """As an evaluation does; returns what ``wandb.json`` says."""
    logger = wandb_logger(run.folder)
    log_run(logger, run, [])
    finish(run, logger)
    assert logger.close()
    return read_state(run.folder)


def records(folder: Path, kind: str) -> list[Any]:
    """All records of a kind in a folder's offline runs."""
    return [record[kind] for path in offline_runs(folder) for record in inspect(path) if record["type"] == kind]


def config(folder: Path) -> dict[str, Any]:
    """The configuration, by dotted key."""
    return {key: value for record in records(folder, "config") for key, value in record["update"].items()}


def own_artifacts(folder: Path) -> list[Any]:
    """Without those that W&B makes of tables."""
    return [one for one in records(folder, "artifact") if one["type"] in ("evaluation", "model")]


def test_charts_tags_and_configuration(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    log(run)
    said = config(tmp_path)
    charts = {key.removeprefix("_wandb.visualize."): value for key, value in said.items() if "visualize" in key}
    lines = {f"results/test/{name} {metric} by step" for name in NETWORKS for metric in ("iou", "asr")}
    assert set(charts) == lines | {"results/test/iou", "results/test/l1", "results/test/asr"}
    (path,) = tmp_path.rglob("results/test/iou_table*.table.json")
    content = json.loads(path.read_text())
    means = {f"{row['interpreter']}, {row['attack']}": row["iou"] for row in run.summary.rows}
    assert {name.replace("-fast", ""): value for name, value in content["data"]} == pytest.approx(means)
    (path,) = tmp_path.rglob("results/test/cam iou by step_table*.table.json")
    trace = next(run.records("cam")).attacks[-1].trace["iou"]
    drawn = sorted((row[0], row[2]) for row in json.loads(path.read_text())["data"])
    assert drawn == [(k + 1, pytest.approx(float(trace[k].double().mean()), abs=1e-6)) for k in range(5)]
    assert said["stamp"] == {"seed": 3, "git_revision": "abc"}
    assert said["experiment"]["interpreters"] == {"cam": {}, "rts": {}}
    assert said["about"] == {"dataset": "drawn", "classifier": "tiny", "stage": "test", "selected": None}
    assert records(tmp_path, "run")[-1]["tags"] == ["drawn", "tiny", "cam", "rts", "pgd", "adv2"]


def test_summary_and_panels(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    log(run)
    summary: dict[str, Any] = {}
    for record in records(tmp_path, "summary"):
        summary |= record["update"]
    for row in run.summary.rows:
        if row["schedule"] != "control":
            for metric in ("asr", "confidence", "l1", "iou"):
                assert summary[f"summary/{row['attack']}/{row['interpreter']}/{metric}"] == row[metric]
    hidden = {
        one.get("name", one.get("glob_name")) for one in records(tmp_path, "metric") if "hidden" in one["options"]
    }
    assert {"test/adv2-fast/cam/confidence", "report/*", "trainer/global_step"} <= hidden
    assert "convergence/test/rts/attack_step" in hidden
    assert not hidden & {f"test/adv2-fast/{name}/{metric}" for name in NETWORKS for metric in ("asr", "iou", "l1")}
    axes = {one.get("glob_name"): one["step_metric"] for one in records(tmp_path, "metric") if "step_metric" in one}
    assert axes["convergence/test/cam/*"] == "convergence/test/cam/attack_step"
    best = {one["name"]: one["summary"] for one in records(tmp_path, "metric") if "summary" in one}
    assert best["train/loss"]["min"]
    assert best["val/accuracy"]["max"]
    sections = {key.split("/")[0] for row in history(tmp_path) for key in row if not key.startswith("_")}
    assert sections == {"report", "convergence", "images", "results", "studies", "trainer"}


def test_studies_and_files_are_logged_once(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    state = log(run)
    assert set(state["pieces"]) == {"test/noise", "test/map_quality", "evaluation"}
    (artifact,) = own_artifacts(tmp_path)
    entries = {one["path"]: one for one in artifact["manifest"]["contents"]}
    paths = [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    expected = {str(path.relative_to(tmp_path)) for path in paths}
    expected |= {"results.json", "stamp.json", "noise.json", "figures/noise.png", "images.csv"}
    assert expected <= set(entries)
    assert "wandb.json" not in entries
    for name, entry in entries.items():
        content = Path(entry["local_path"]).read_bytes()
        assert entry["digest"] == base64.b64encode(hashlib.md5(content).digest()).decode(), name
    logger = wandb_logger(run.folder)
    log_run(logger, run, [])
    finish(run, logger)
    assert not logger.close(), "there was nothing to log"
    assert "already" in sync(tmp_path)
    rows = history(tmp_path)
    for key in ("studies/test/noise/figure", "studies/test/noise/table", "studies/test/noise/levels"):
        assert sum(has(row, key) for row in rows) == 1, key
    assert sum(has(row, "studies/test/map_quality/table") for row in rows) == 1
    assert len(own_artifacts(tmp_path)) == 1


def test_what_comes_later_or_was_lost_is_synced_once(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    state = log(run)
    del state["pieces"]  # as where the process was killed before the end
    write_json(tmp_path / "wandb.json", state)
    write_json(tmp_path / "transfer.json", {"rows": [{"iou": 0.75}]})
    sync(tmp_path)
    rows = history(tmp_path)
    assert [sum(has(row, f"studies/test/{name}/table") for row in rows) for name in ("noise", "transfer")] == [1, 1]
    assert len(own_artifacts(tmp_path)) == 2, "with one file more it is another"
    write_json(tmp_path / "stamp.json", {"seed": 3, "time": "later"})
    assert "already" in sync(tmp_path), "when it ran makes no new artifact"


def test_large_records_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_artifacts, "MAX_BYTES", 1000)
    run = whole_run(tmp_path)
    log(run)
    (artifact,) = own_artifacts(tmp_path)
    linked = {one["path"]: one["ref"] for one in artifact["manifest"]["contents"] if "ref" in one}
    paths = [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    assert linked == {str(path.relative_to(tmp_path)): path.as_uri() for path in paths}
    assert "linked, not uploaded" in artifact["description"]


def test_weights_of_a_fit(tmp_path: Path) -> None:
    path = save_weights({"a": torch.arange(3.0)}, tmp_path / "rts.safetensors")
    for step in (5, 6):
        logger = wandb_logger(tmp_path, job_type="train-rts")
        logger.log_hyperparams({"model": {"class_path": "lightning_adv2.modules.RTSModule"}})
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.finalize("success")
        logger.finalize("success")
        assert logger.close()
    (artifact,) = own_artifacts(tmp_path)
    facts = json.loads(artifact["metadata"])
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["step"], facts["module"]) == (5, "lightning_adv2.modules.RTSModule")
    assert artifact["type"] == "model"
    (entry,) = artifact["manifest"]["contents"]
    kept = path.read_bytes()
    save_weights({"a": torch.arange(4.0)}, path)
    assert Path(entry["local_path"]).read_bytes() == kept, "an upload may come after the next training"


def test_groups_and_job_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def start(folder: str, **about: Any) -> tuple[Any, Any]:
        logger = wandb_logger(folder, **about)
        found = logger.experiment.group, logger.experiment.job_type
        logger.close()
        return found

    assert not any(start("runs/alone"))
    assert start("runs/paper/cam", job_type="evaluate") == ("paper", "evaluate")
    assert start("runs/paper/cam", job_type="other") == ("paper", "evaluate"), "it stays the run that it was"
    assert start("runs/paper/rts", group="given")[0] == "given"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("WANDB_JOB_TYPE", "night")
    assert start("runs/paper/grad", group="given", job_type="evaluate") == ("mine", "night")
    (record, *_) = records(Path("runs/paper/grad"), "run")
    assert (record["run_group"], record["job_type"]) == ("mine", "night")


def test_a_sweep_names_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    assert wandb_logger(tmp_path / "alone").version != "abcd1234"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert wandb_logger(tmp_path / "swept").version == "abcd1234"


def test_words_for_runs() -> None:
    kinds = {AIDModule: "train-aid", RTSModule: "train-rts", ClassifierModule: "train-classifier"}
    for kind, word in kinds.items():
        assert job_type_of("fit", kind.__new__(kind)) == word
    assert [job_type_of(one, None) for one in ("test", "validate", "predict")] == ["evaluate", "evaluate", "predict"]
    assert as_tags(["", " a", "a", "b" * 80]) == ("a", "b" * 64)
    wandb.Settings(run_tags=as_tags(["b" * 80]))  # W&B refuses longer ones
