"""What a report takes must not grow with the run."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import make
from lightning_adv2.files.run import read_arrays
from lightning_adv2.report.html.run_page import write_run_page
from lightning_adv2.report.run_report import write_report
from lightning_adv2.results.run import read_run

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_report_of_more_images_takes_no_more_memory(tmp_path: Path) -> None:
    """Records of 300 images are 227 MB: who held them all would need that much more than for 20."""
    command = [sys.executable, "-m", "benchmarks.report", "--sizes", "20", "300", "--folder", tmp_path]
    done = subprocess.run([*command, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    peaks = {(row["part"], row["images"]): row["peak MB"] for row in rows}
    for part in ("end", "report"):
        assert peaks[part, 300] - peaks[part, 20] < 60, peaks


def test_all_records_are_read_once_and_those_shown_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty images in twelve records: tables take them all; figures the first one, the page the first 24 images."""
    make(tmp_path, 60)
    read: list[str] = []

    def counted(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        read.append(path.stem)
        return read_arrays(path)

    monkeypatch.setattr("lightning_adv2.results.records.read_arrays", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = read_run(tmp_path)
        assert len(read) == 12
        write_report(run, {})
        assert read[12:] == ["batch_00000"]
        write_run_page(run)
    assert read[13:] == [f"batch_{i:05d}" for i in range(5)]
