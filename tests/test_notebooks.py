from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def name(path: Path) -> str:
    return path.stem


def run(path: Path, folder: Path, threads: int, shorter: dict[str, str]) -> tuple[str, list[Any]]:
    """What a notebook prints, and all its outputs; it runs in ``folder``, since it writes next to where it starts."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in shorter.items():
        assert any(old in cell.source for cell in code), old
        for cell in code:
            cell.source = cell.source.replace(old, new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(threads))
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code for output in cell.outputs]
    return "".join(one["text"] for one in outputs if one.get("name") == "stdout"), outputs


def check(path: Path, folder: Path, threads: int, shorter: dict[str, str]) -> None:
    printed, outputs = run(path, folder, threads, shorter)
    assert any("image/png" in output.get("data", {}) for output in outputs), "it draws something"
    accuracy = re.search(r"accuracy on \d+ validation images: ([\d.]+)%", printed)
    assert accuracy, printed
    assert float(accuracy[1]) >= 70, "far above chance, 14%"
    if path.stem == "aid":
        heads = re.findall(r"^(rts|rts_a): +(\d+)% of (\d+) succeed", printed, re.MULTILINE)
        assert [head[0] for head in heads] == ["rts", "rts_a"]
        rts, rts_a = (float(iou) for iou in re.findall(r"^  as looked at +([\d.]+) ", printed, re.MULTILINE))
        if not shorter:
            assert float(accuracy[1]) >= 80
            assert all(int(count) >= 30 for *_, count in heads), "images that the classifier gets right, with a map"
            assert rts_a < rts - 0.05, "ADV2 keeps less of the map of RTS-A, by 0.17 to 0.33 over six runs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


SHORTER = {
    "aid": {"num_train=4000": "num_train=2100", "num_train=1024": "num_train=64", "0.15, 5": "0.15, 1",
            "level=0.8": "level=0.7", "max_epochs=4": "max_epochs=1"},
}  # fmt: skip
"""What takes a notebook many minutes, and what its other cells run with as well."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, 1, SHORTER.get(path.stem, {}))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_whole_with_two_threads(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, 2, {})
