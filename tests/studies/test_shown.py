"""Figures, tables and pages cost no run its success: real runs with every study, in which what is shown fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from report.browser import Parsed
from spawn import environment, run_fresh_python

from lightning_adv2.files.text import visible
from lightning_adv2.report.compare import report
from studies.shown_processes import NAMES

pytestmark = pytest.mark.slow  # each is a whole run in a process of its own

SCRIPT = Path(__file__).with_name("shown_processes.py")
FILES = (
    "map_quality", "noise", "confusion", "localization", "results", "transfer", "proposition", "classifier_transfer",
    "detection", "curves", "resilience",
)  # fmt: skip
DRAWN = (
    "agreement", "overview", "cam/gallery", "cam/convergence", "grad/gallery", "grad/convergence", "map_quality",
    "noise", "noise_maps", "confusion", "localization", "transfer", "proposition", "classifier_transfer", "detection",
    "curves", "resilience",
)  # fmt: skip
NEED_NETWORKS = {"noise_maps", "localization"}


def again(folder: Path, whole: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same command in a copy of a finished run: its records are kept, and all studies run anew."""
    shutil.copytree(whole, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("figures", "report.html"))
    return run_fresh_python(SCRIPT, folder, folder=folder, **variables)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run_fresh_python(SCRIPT, folder, folder=folder, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is not made" not in done.stderr
    return folder, done.stdout


def test_names_are_text_wherever_they_are_shown(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    assert [name for name in DRAWN if not (folder / "figures" / f"{name}.png").is_file()] == []
    odd = {c for c in printed if unicodedata.category(c)[0] == "C" and c != "\n"}
    assert not odd, "nothing that a terminal obeys, and no half characters"
    page = Parsed(folder / "report.html")
    for name in NAMES[:-1]:
        assert visible(name) in printed
        assert visible(name) in page.text
    assert not any(attribute == "onclick" for _, attributes in page.tags for attribute in attributes)


def test_without_any_figure_a_run_ends_well_and_its_data_are_the_same(whole: tuple[Path, str], tmp_path: Path) -> None:
    """The folder for figures is a file, such as a careless ``cp`` leaves; then it is mended."""
    (tmp_path / "figures").write_text("in the way")
    done = again(tmp_path, whole[0])
    assert done.returncode == 0, done.stderr[-3000:]
    told = " ".join(done.stderr.split())
    for name in DRAWN:
        path = re.escape(str(tmp_path / "figures" / f"{name}.png"))
        remedy = "the same command" if name in NEED_NETWORKS else "'lightning-adv2 report RUN'"
        assert re.search(
            rf"{path} is not made \((File exists|Not a directory)\); once the cause is gone, {remedy}", told
        )
    for name in FILES:
        assert (tmp_path / f"{name}.json").read_bytes() == (whole[0] / f"{name}.json").read_bytes(), name
    assert "Resilience and benign map quality" in Parsed(tmp_path / "report.html").text

    (tmp_path / "figures").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report([tmp_path])
    for name in DRAWN:
        there, first = (folder / "figures" / f"{name}.png" for folder in (tmp_path, whole[0]))
        assert there.is_file() == (name != "noise_maps"), name
        if there.is_file():
            assert (there.read_bytes() == first.read_bytes()) == (name not in NEED_NETWORKS), name


def test_one_figure_that_fails_costs_only_itself(whole: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "figures" / "transfer.png").mkdir(parents=True)
    done = again(tmp_path, whole[0], PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("is not made") == 1
    assert f"{tmp_path / 'figures' / 'transfer.png'} is not made (Is a directory)" in " ".join(done.stderr.split())
    for name in DRAWN:
        there = tmp_path / "figures" / f"{name}.png"
        assert there.is_file() == (name != "transfer"), name
    assert r"Z\xfcrich \u2603" in done.stdout, "a terminal without these letters gets them written out"


def test_nobody_reads_what_is_printed_any_more(whole: tuple[Path, str], tmp_path: Path) -> None:
    """As with ``| head``: the reader goes after the first table."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("figures", "report.html"))
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path)], cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stderr is not None
        assert any("Benign map quality" in line for line in run.stdout)
        run.stdout.close()
        told = " ".join(run.stderr.read().split())
    assert run.returncode == 0, told[-3000:]
    assert re.search(r"the table of \S+\.json is not made \(Broken pipe\)", told)
    assert [name for name in DRAWN if not (tmp_path / "figures" / f"{name}.png").is_file()] == []
    assert plt.imread(tmp_path / "figures" / "confusion.png").shape[0] > 600
