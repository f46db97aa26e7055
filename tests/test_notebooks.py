from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def name(path: Path) -> str:
    return path.stem


def run(path: Path, folder: Path, threads: int, seed: int) -> tuple[str, list[Any]]:
    """What a notebook prints, and all its outputs; it runs in ``folder``, since it writes next to where it starts."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(threads))
        patch.setenv("NOTEBOOK_SEED", str(seed))
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(one["text"] for one in outputs if one.get("name") == "stdout"), outputs


def check(path: Path, folder: Path, threads: int, seed: int = 0) -> None:
    printed, outputs = run(path, folder, threads, seed)
    assert any("image/png" in output.get("data", {}) for output in outputs), "it draws something"
    accuracy = re.search(r"accuracy on \d+ validation images: ([\d.]+)%", printed)
    assert accuracy, printed
    assert float(accuracy[1]) >= 70, "far above chance, 14%"
    if path.stem == "aid":
        assert float(accuracy[1]) >= 80
        heads = re.findall(r"^(rts|rts_a): +(\d+)% of (\d+) succeed", printed, re.MULTILINE)
        assert [head[0] for head in heads] == ["rts", "rts_a"]
        assert all(int(count) >= 30 for *_, count in heads), "images that the classifier gets right, with a map"
        rts, rts_a = (float(iou) for iou in re.findall(r"^  as looked at +([\d.]+) ", printed, re.MULTILINE))
        assert rts_a < rts - 0.05, "ADV2 keeps less of the map of RTS-A, by 0.17 to 0.33 over six runs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


SHORT = {"quickstart"}  # the others take a minute or more


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in SHORT else pytest.mark.slow) for path in NOTEBOOKS],
    ids=name,
)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_with_two_threads(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, threads=2)
