"""What W&B shows without a click, read back from real offline runs by W&B's own reader."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import wandb
from build_records import make_record
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from lightning_adv2.files import write_json
from lightning_adv2.models import save_weights
from lightning_adv2.modules import AIDModule, ClassifierModule, RTSModule
from lightning_adv2.report import wandb_logger
from lightning_adv2.report.findings import Findings, write_findings
from lightning_adv2.report.finish import finish
from lightning_adv2.report.run_report import draw_figures
from lightning_adv2.report.wandb import artifacts as wandb_artifacts
from lightning_adv2.report.wandb.about import as_tags, job_type_of
from lightning_adv2.report.wandb.files import logged
from lightning_adv2.report.wandb.panels import MAX_CURVE_POINTS, curve_points
from lightning_adv2.report.wandb.sync import log_run, sync
from lightning_adv2.results.run import Run
from lightning_adv2.studies.gap import GapEvaluation
from report.runs import Probe, check_report, has, history, inspect, make_run, offline_runs, offline_tables

NETWORKS = ("cam", "rts")
ROWS = [{"interpreter": name, "attack": "adv2", "iou": 0.5, "n": 3, "flags": ["a", "b"]} for name in NETWORKS]
LEVELS = [{"level": 0.1, "images": 3, "rate_reached": None}]


def whole_run(folder: Path) -> Run:
    """Two interpreters, and what a study leaves."""
    run = make_run(
        folder, [make_record(0, ["a", "b", "c"], interpreter=name, place=i) for i, name in enumerate(NETWORKS)]
    )
    write_json(folder / "stamp.json", {"seed": 3, "git_revision": "abc"})
    write_findings(folder, Probe, Findings(ROWS, details={"levels": LEVELS, "nested": [{"a": [1]}]}))
    draw_figures(run)
    for name in ("probe", "probe_maps"):
        plt.imsave(folder / "figures" / f"{name}.png", torch.rand(8, 8, 3).numpy())
    return run


def log(run: Run) -> dict[str, str]:
    """As an evaluation does at its end; returns what ``wandb.json`` says to be logged."""
    logger = wandb_logger(run.folder)
    finish(run, logger)
    assert logger.close()
    return logged(run.folder)


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
    lines = {f"convergence/test/{name}/{metric}" for name in NETWORKS for metric in ("iou", "asr", "l1", "confidence")}
    assert set(charts) == lines | {"results/test/iou", "results/test/l1", "results/test/asr"}
    tables = offline_tables(tmp_path)
    means = {f"{row['interpreter']}, {row['attack']}": row["iou"] for row in run.summary.rows}
    bars = [list(row.values()) for row in tables["Custom Chart Tables/results/test/iou_table"]]
    assert {name.replace("-fast", ""): value for name, value in bars} == pytest.approx(means)
    trace = next(run.records("cam")).attacks[-1].trace
    for metric, name in (("iou", "iou"), ("asr", "success")):
        drawn = tables[f"Custom Chart Tables/convergence/test/cam/{metric}_table"]
        assert {row["lineKey"] for row in drawn} == {"adv2-fast"}
        assert sorted((row["step"], row["lineVal"]) for row in drawn) == [
            (k + 1, pytest.approx(float(trace[name][k].double().mean()), abs=1e-6)) for k in range(5)
        ]
    assert said["stamp"] == {"seed": 3, "git_revision": "abc"}
    assert said["experiment"]["interpreters"] == {"cam": {}, "rts": {}}
    assert said["about"] == {"dataset": "drawn", "classifier": "tiny", "stage": "test", "selected": None}
    assert records(tmp_path, "run")[-1]["tags"] == ["drawn", "tiny", "cam", "rts", "pgd", "adv2"]


def test_the_tables_are_those_of_the_files(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    log(run)
    tables = offline_tables(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row | {"flags": {}} for row in tables["results/test/table"]] == written
    text = {"flags": "a; b"}
    assert tables["studies/test/probe/table"] == [row | text for row in ROWS]
    assert tables["studies/test/probe/levels"] == LEVELS
    assert [key for key in tables if "nested" in key] == []


def test_curves_are_thinned_and_steps_without_a_value_are_left_out() -> None:
    curve = [math.nan, *(k / 1000 for k in range(1, 1000))]
    points = curve_points(curve)
    assert len(points) == MAX_CURVE_POINTS - 1
    assert points[-1] == (1000, 0.999)
    assert all(value == curve[step - 1] for step, value in points)
    assert curve_points([0.5]) == [(1, 0.5)]


def test_summary_and_panels(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    log(run)
    summary: dict[str, Any] = {}
    for record in records(tmp_path, "summary"):
        summary |= record["update"]
    for row in run.summary.rows:
        if row["role"] != "control":
            for metric in ("asr", "confidence", "l1", "iou"):
                assert summary[f"summary/{row['attack']}/{row['interpreter']}/{metric}"] == row[metric]
    hidden = {
        one.get("name", one.get("glob_name")) for one in records(tmp_path, "metric") if "hidden" in one["options"]
    }
    assert {"test/adv2-fast/cam/confidence", "running/noise/*", "trainer/global_step"} <= hidden
    assert "running/pgd-fast/*" not in hidden
    assert not hidden & {f"test/adv2-fast/{name}/{metric}" for name in NETWORKS for metric in ("asr", "iou", "l1")}
    best = {one["name"]: one["summary"] for one in records(tmp_path, "metric") if "summary" in one}
    assert best["train/loss"]["min"]
    assert best["val/accuracy"]["max"]
    (row,) = history(tmp_path)
    sections = {key.split("/")[0] for key in row if not key.startswith("_")}
    assert sections == {"images", "results", "studies", "trainer", "Custom Chart Tables"}


def test_an_evaluation_is_one_row_and_one_artifact(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    assert set(log(run)) == {"evaluation"}
    (artifact,) = own_artifacts(tmp_path)
    entries = {one["path"]: one for one in artifact["manifest"]["contents"]}
    paths = [path for path in (tmp_path / "records").rglob("*") if path.is_file()]
    expected = {str(path.relative_to(tmp_path)) for path in paths}
    expected |= {"results.json", "stamp.json", "probe.json", "figures/probe.png", "images.csv", "SHA256SUMS"}
    assert expected <= set(entries)
    assert "wandb.json" not in entries
    for path in ("probe.json", "results.json"):
        (tmp_path / path).write_text("{}")  # an upload may come later; records alone are never written again
    for name, entry in entries.items():
        content = Path(entry["local_path"]).read_bytes()
        assert entry["digest"] == base64.b64encode(hashlib.md5(content).digest()).decode(), name
    (row,) = history(tmp_path)
    for key in ("figure", "figure_maps", "table", "levels"):
        assert has(row, f"studies/test/probe/{key}"), key


def test_an_evaluation_that_is_there_is_not_logged_again(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    log(run)
    write_json(tmp_path / "stamp.json", {"seed": 3, "time": "later"})
    log(run)
    assert "already" in sync(tmp_path)
    assert len(history(tmp_path)) == len(own_artifacts(tmp_path)) == 1
    write_findings(tmp_path, Probe, Findings([{"interpreter": "x", "iou": 0.75}]))
    sync(tmp_path)
    assert offline_tables(tmp_path)["studies/test/probe/table"] == [{"interpreter": "x", "iou": 0.75}]
    assert len(own_artifacts(tmp_path)) == 2, "with another file it is another"


def test_a_damaged_study_costs_only_itself(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    keys = [key for column in GapEvaluation.columns for key in column.keys]
    write_findings(tmp_path, GapEvaluation, Findings([dict.fromkeys(keys)]))
    (tmp_path / "gap.json").write_text((tmp_path / "gap.json").read_text()[:-20])
    with pytest.warns(UserWarning, match=r"W&B's part of \S+gap\.json is not made"):
        log(run)
    tables = offline_tables(tmp_path)
    assert "studies/test/probe/table" in tables
    assert "studies/test/gap/table" not in tables


def test_a_logger_of_the_users_own_gets_the_same(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    logger = WandbLogger("run", tmp_path, offline=True)
    log_run(logger, run)
    log_run(CSVLogger(tmp_path), run)
    log_run(None, run)
    logger.experiment.finish()
    check_report(tmp_path, 5)


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
