"""The benchmarks run; what they measure is read by people, never by a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import spawn

from benchmarks.pairing import paired
from benchmarks.tables import tables

ROOT = Path(__file__).parents[1]


def test_ratios_are_paired(monkeypatch):
    """A moment in which the machine is ten times slower changes no ratio."""
    import torch

    taken = iter([9.0, 9.0, 1.0, 2.0, 10.0, 20.0, 1.0, 2.0])  # one round is thrown away
    monkeypatch.setattr("benchmarks.pairing.seconds", lambda call, device: next(taken))
    floor, other = paired("x", {"floor": (int, "floor"), "other": (int, "floor")}, 2, 3, torch.device("cpu"))
    assert (floor["ratio"], floor["ms"]) == (1.0, 500.0)
    assert (other["ratio"], other["ratio_min"], other["ratio_max"], other["ms"]) == (2.0, 2.0, 2.0, 1000.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "steps",
        "maps",
        "drift",
        "batches",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("memory", "training")),
    ],
)
def test_every_part_runs_without_data(part, tmp_path):
    words = ["-m", "benchmarks", part, "--quick", "--device", "cpu", "--data", str(tmp_path)]
    done = spawn.run_python(*words, folder=tmp_path, timeout=900)
    assert done.returncode == 0, done
    assert "ResNet-20" in done.stdout or "resnet50" in done.stdout


@pytest.mark.long
def test_derivatives_are_right_or_refused_for_the_reason_at_hand():
    """A variant that is refused for another fault than its own would say nothing."""
    command = [sys.executable, "-m", "benchmarks", "derivatives", "--quick", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["interpreter"] for row in rows] == ["GRAD", "IG", "SmoothGrad", "CAM", "Grad-CAM", "LRP"]
    for row in rows:
        assert row["plain"] == row["in place"] == "right"
        for variant in ("compiled whole", "compiled in part"):
            assert row[variant] == "right" if row["interpreter"] == "CAM" else "compiled" in row[variant]


@pytest.mark.parametrize(("name", "text"), tables())
def test_the_page_shows_the_figures_of_the_files(name, text):
    """Every file has its table on the page, as it is; the README repeats some."""
    assert text in (ROOT / "benchmarks" / "README.md").read_text()
    if name in ("attacks", "aid"):
        assert text in (ROOT / "README.md").read_text()


def test_every_file_of_figures_has_a_table_and_is_named_on_the_page():
    page, module = ((ROOT / "benchmarks" / name).read_text() for name in ("README.md", "tables.py"))
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert f"`results/{path.name}`" in page
        assert f'read("{path.stem}")' in module


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_figures_name_no_folder_of_one_machine(path):
    content = json.loads(path.read_text())
    stamp = content.get("stamp", {}) if isinstance(content, dict) else {}
    assert not [word for word in stamp.get("command", []) if word.startswith("/")]
