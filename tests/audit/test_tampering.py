"""What verify sees of a change somewhere in a run, and that nothing in a file brings it down."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import flip_data
from lab import attack_data, idls, trainer, victim, wandb_home

from benchmarks.tampering import show, tamper
from benchmarks.verifying import make_run, seconds_of
from lightning_adv2.__main__ import main
from lightning_adv2.attacks import adv2_cam, pgd, stadv
from lightning_adv2.audit.verify import verify
from lightning_adv2.detectors import FeatureSqueezing
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.run import record_path
from lightning_adv2.files.sums import write_sums
from lightning_adv2.files.twice import SEAL, write_twice
from lightning_adv2.functional.squeeze import BitDepth
from lightning_adv2.results.records import BatchRecord, read_record, write_record
from lightning_adv2.studies import (
    AttackCurves,
    ClassifierTransferEvaluation,
    DetectionEvaluation,
    LocalizationEvaluation,
    MapQualityEvaluation,
    NoiseEvaluation,
    PropositionEvaluation,
    ResilienceReport,
    TransferEvaluation,
)

__all__ = ["wandb_home"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two interpreters with nearly every study."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    longer = adv2_cam(steps=6)
    shorter = adv2_cam(steps=3)
    longer.name, shorter.name = "adv2-steps6", "adv2-steps3"
    studies = [
        TransferEvaluation(), DetectionEvaluation([FeatureSqueezing([BitDepth(2)])], calibration_images=8),
        NoiseEvaluation(), AttackCurves(), PropositionEvaluation(steps=8), LocalizationEvaluation(),
        ClassifierTransferEvaluation([victim()], ["twin"]), ResilienceReport(reference="cam"),
    ]  # fmt: skip
    quality = MapQualityEvaluation(order=True, reference="cam", randomise=True)
    evaluation = AttackEvaluation([pgd(epsilon=0.031, steps=4), shorter, longer, stadv(steps=2)])
    trainer(folder, quality, evaluation, *studies).test(idls("cam", "grad"), attack_data(num_images=7), verbose=False)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_with_studies_holds_and_sha256sum_agrees(run: Path) -> None:
    found, checked = verify(run)
    assert found == []
    assert any("resilience.json" in line and "proposition.json" in line for line in checked)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=run, capture_output=True, text=True, check=True)
    names = {line.rpartition(": ")[0] for line in done.stdout.splitlines()}
    assert {"results.json", "report.html", "stamp.json", "figures/agreement.png", "manifest.json",
            "records/experiment.json", "records/grad/batch_00001.safetensors"} <= names  # fmt: skip
    assert not main(["report", str(run)])
    assert verify(run)[0] == [], "the page may be written anew"


@pytest.mark.slow
def test_promise_7_no_change_of_a_value_goes_unnoticed(run: Path) -> None:
    outcome = tamper(run, 220)
    show(outcome)
    assert outcome.raised == []
    assert sum(map(len, outcome.missed.values())) == 0
    # Not experiment.json: how a class is called stands in no other file that verify could ask.
    tables = ("results.json", "results.csv", "images.csv", "status.csv", "manifest.json")
    assert sum(outcome.made[name] for name in tables) >= 20
    assert [line for name in tables for line in outcome.unseen[name]] == [], "these are counted again from the records"


def edit(run: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file, and all that would show it but the records."""
    content = json.loads((run / name).read_text())
    sealed = content.pop(SEAL, None)
    change(content)
    if sealed:
        write_twice(run / name, content)
    else:
        (run / name).write_text(json.dumps(content))
    write_sums(run)


def put(place: str, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for part in way:
            content = content[part]
        content[last] = value(content[last]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("results.json", "rows.2.mean_steps", lambda x: x - 1), ("results.json", "rows.0.dataset", "cifar10"),
        ("results.json", "rows.0.classifier", "vgg"), ("results.json", "rows", lambda x: [*x, x[0]]),
        ("results.json", "rows", lambda x: x[::-1]), ("results.json", "rows.2.n", True),
        ("stamp.json", "classifier_sha256", "0" * 64), ("stamp.json", "processes", 0),
        ("stamp.json", "precision", "16-true"), ("stamp.json", "seconds.cam.noise", lambda x: x + 1),
        ("stamp.json", "seed", 1), ("stamp.json", "target", "patch"), ("stamp.json", "halvings", {"cam": 1}),
        ("manifest.json", "considered", lambda x: x + 1), ("records/experiment.json", "about.selected", 8),
        ("records/experiment.json", "experiment.seed", 9), ("records/experiment.json", "about.dataset", "cifar10"),
        ("transfer.json", "rows.0.iou", lambda x: x + 1e-4), ("curves.json", "rows.0.asr_low", 0.5),
        ("curves.json", "rows.0.family", "pgd"), ("curves.json", "rows.4.n", 6),
        ("proposition.json", "rows.1.held", lambda x: x + 1),
        ("proposition.json", "details.images.0.gain", lambda x: x + 0.01),
        ("proposition.json", "details.images.1.l1", None), ("detection.json", "rows.0.detection_rate", 0.9),
        ("detection.json", "rows.1.auroc", lambda x: 1 - x / 2),
        ("detection.json", "rows.1.threshold", lambda x: x + 0.01),
        ("detection.json", "settings.calibration_images", 9), ("noise.json", "details.levels.0.misclassified", 3),
        ("noise.json", "rows.0.level", lambda x: x / 2),
        ("localization.json", "rows.0.error", 0.123),
        ("localization.json", "settings.images.reported", lambda x: x + 1),
        ("localization.json", "details.rules.0.calibration_error", 0.123),
        ("resilience.json", "rows.0.worst_iou", lambda x: x / 2),
        ("resilience.json", "rows.1.successful", lambda x: x + 1), ("map_quality.json", "rows.0.preserved", 1.5),
        ("map_quality.json", "columns.2.key", "reserved"),
        ("classifier_transfer.json", "rows.0.confidence", lambda x: x / 2 + 0.1),
    ],
)  # fmt: skip
def test_a_figure_that_contradicts_the_records_though_the_sums_fit(
    run: Path, name: str, place: str, value: Any
) -> None:
    edit(run, name, put(place, value))
    found, _ = verify(run)
    assert found
    assert any(Path(name).name in line for line in found), found


TABLES = ("images", "status", "results", "detection", "resilience", "noise", "localization")


@pytest.mark.parametrize("name", [f"{name}.csv" for name in TABLES])
@pytest.mark.parametrize("what", ["twice", "swapped", "column twice", "cell too many", "empty", "no text"])
def test_rows_and_columns_of_a_table(run: Path, name: str, what: str) -> None:
    lines = (run / name).read_text().splitlines()
    if what == "twice":
        lines.append(lines[-1])
    elif what == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif what == "column twice":
        lines[0] = ",".join([*lines[0].split(",")[:-1], lines[0].split(",")[0]])
    elif what == "cell too many":
        lines[1] += ",1"
    elif what == "empty":
        lines = []
    (run / name).write_bytes(b"\xff\x00\n" if what == "no text" else "".join(f"{one}\n" for one in lines).encode())
    write_sums(run)
    found, _ = verify(run)
    assert any(name in line for line in found), found


def set_first(attack: int, name: str, value: Any) -> Callable[[BatchRecord], None]:
    def change(record: BatchRecord) -> None:
        own = getattr(record.attacks[attack], name)
        if hasattr(own, "shape"):
            own.view(-1)[0] = value
        else:
            setattr(record.attacks[attack], name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_first(2, "confidence", 1.5), "outside 0 to 1"), (set_first(2, "adv_map", -0.5), "adv_map"),
        (set_first(2, "steps_taken", 99), "outside 0 to 4"), (set_first(2, "adv_predicted", 7), "outside 0 to 6"),
        (set_first(2, "size", float("inf")), "size"), (set_first(2, "seconds", float("nan")), "seconds"),
        (set_first(2, "seconds", -1.0), "seconds"), (set_first(2, "steps", -3), "steps"),
        (set_first(2, "unit", "px"), "steps, unit"), (set_first(2, "adv_map", float("nan")), "valid is True"),
        (set_first(1, "adv_map_true_class", 0.987), "though it is the benign image"),
        (lambda r: setattr(r, "pieces", 0), "pieces"),
        (lambda r: setattr(r, "target", "patch"), "target"), (lambda r: r.attacks.reverse(), "its attacks are"),
        (lambda r: setattr(r, "experiment", "0" * 64), "of another experiment"),
        (lambda r: r.attacks[3].trace["success"].fill_(0.5), "neither 0 nor 1"),
        (lambda r: r.attacks[3].trace.pop("l1"), "trace/l1"),
    ],
)  # fmt: skip
def test_what_no_run_writes_into_a_record(run: Path, change: Callable[[BatchRecord], Any], words: str) -> None:
    path = record_path(run / "records", "cam", 0)
    record = read_record(path)
    change(record)
    write_record(record, run / "records")
    found, _ = verify(run, sums=False)
    assert any(words in line for line in found), found
    assert any(path.name in line for line in found) or words in ("steps, unit", "target")


RUBBISH: list[Any] = [
    "null", "[]", "{}", "3", '"text"', "[" * 100_000, '{"rows": 1, "rows": 2}', "1" + "0" * 5000, "NaN", "",
    '{"rows": {}, "denominators": [], "benign": null}', '{"entries": {"a": 1}}', "\x00",
    '{"experiment": {"interpreters": 3}, "about": {"classes": 7}}',
]  # fmt: skip


@pytest.mark.parametrize("content", RUBBISH, ids=range(len(RUBBISH)))
def test_no_json_brings_it_down(run: Path, content: str) -> None:
    for path in sorted([*run.glob("*.json"), *(run / "records").glob("*.json")]):
        whole = path.read_bytes()
        path.write_text(content)
        found, _ = verify(run, sums=False)
        assert any(path.name in line for line in found), path
        path.write_bytes(whole)


def test_no_value_of_another_type_brings_it_down(run: Path) -> None:
    """A hundred random places in all JSON files, each with something that has no business there; seals fit."""
    draw = random.Random(0)
    odd = [None, "x", [], {}, -1, 1e308, 10**400, True, [[1]], {"a": None}, float("nan")]
    names = [str(path.relative_to(run)) for path in sorted(run.glob("*.json")) if ".copy" not in path.name]
    for _ in range(100):
        name = draw.choice([*names, "records/experiment.json"])
        content = json.loads((run / name).read_text())
        sealed = content.pop(SEAL, None)
        container: Any = content
        while True:
            key = draw.choice(list(container) if isinstance(container, dict) else range(len(container)))
            inner = container[key]
            if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.2:
                break
            container = inner
        kept = {one: one.read_bytes() for one in (run / name).parent.glob("*.json")}
        container[key] = draw.choice(odd)
        if sealed:
            write_twice(run / name, content)
        else:
            (run / name).write_text(json.dumps(content))
        verify(run, sums=False)
        for one, before in kept.items():
            one.write_bytes(before)
    assert verify(run)[0] == []


@pytest.mark.parametrize("name", ["figures/agreement.png", "report.html", "stamp.json", "noise.json"])
def test_the_sums_see_what_nobody_counts_again(run: Path, name: str) -> None:
    flip_data(run / name)
    assert any(str(run / name) in line for line in verify(run)[0])
    (run / name).unlink()
    assert any(str(run / name) in line and "missing" in line for line in verify(run)[0])


@pytest.mark.parametrize("content", ["", "x", "../up  a\n", f"{'0' * 64}  ../secret\n", f"{'0' * 64}  a\n" * 2])
def test_sums_that_are_none(run: Path, content: str) -> None:
    (run / "SHA256SUMS").write_text(content)
    assert any("SHA256SUMS" in line for line in verify(run)[0])
    (run / "SHA256SUMS").unlink()
    assert any("SHA256SUMS: it is missing" in line for line in verify(run)[0])


@pytest.mark.slow
def test_its_time_grows_with_the_images_and_no_faster(tmp_path: Path) -> None:
    counts = (500, 4000)
    seconds = [min(seconds_of(run) for _ in range(2)) for run in (make_run(tmp_path / str(n), n) for n in counts)]
    print(f"{counts} images: {np.round(seconds, 2)} s")
    assert seconds[1] < 2 * seconds[0] * counts[1] / counts[0]
