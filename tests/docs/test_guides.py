"""The pages that say how to add things are followed literally: what rots in them fails here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from docs.guide import DOCS, ROOT, Block, blocks, check_output, copy_repository, follow, write

GUIDES = sorted(DOCS.glob("add_*.md"))
FURTHER = {
    "add_attack": {"my_": "your_", "adv2_momentum": "adv2_yours"},
    "add_interpreter": {
        "my_": "your_",
        "interpreters/input_gradient": "interpreters/input_squared",
        "interpreters.input_gradient": "interpreters.input_squared",
        '"input_gradient"': '"input_squared"',
        "InputGradient": "InputSquared",
    },
    "add_metric": {"cosine": "alignment"},
    "add_step": {"my_": "your_", "adv2_search": "adv2_yours"},
}
"""For each page that changes files of the package: the names of another contributor's part of the same kind."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with the small classifier that docs/README.md trains."""
    folder = copy_repository(tmp_path_factory.mktemp("guides") / "repository")
    assert follow(DOCS / "README.md", folder) == 1
    assert (folder / "runs/small/classifier.safetensors").exists()
    return folder


def write_all(page: Path, folder: Path, names: dict[str, str]) -> int:
    """Write the files of a page, with other names in them; how many blocks that were."""
    written = 0
    for block in blocks(page):
        text = block.text
        for name, other in names.items():
            text = text.replace(name, other)
        written += block.language in ("python", "yaml") and write(replace(block, text=text), folder)
    return written


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_it_can_be_followed(page: Path, prepared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "repository")
    if page.stem in FURTHER:
        write_all(page, folder, FURTHER[page.stem])
    assert follow(page, folder) >= 3


@pytest.mark.parametrize("name", FURTHER)
def test_its_places_are_there_after_another_contribution(name: str, tmp_path: Path) -> None:
    folder, page = copy_repository(tmp_path / "repository"), DOCS / f"{name}.md"
    changed = write_all(page, folder, FURTHER[name])
    assert changed == write_all(page, folder, {}) >= 3


@pytest.mark.slow
def test_the_study_passes_the_checks_of_the_package(tmp_path: Path) -> None:
    """As a file of the package, with its public docstrings and types."""
    (block,) = (one for one in blocks(DOCS / "add_study.md") if one.text.startswith("# my_study.py\n"))
    path = tmp_path / "my_study.py"
    path.write_text(block.text.partition("\n")[2], encoding="utf-8")
    settings = ROOT / "pyproject.toml"
    for command in (
        ["ruff", "check", "--no-cache", "--config", settings, path],
        ["ruff", "format", "--no-cache", "--check", "--config", settings, path],
        ["mypy", "--config-file", settings, path],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_are_there_and_short() -> None:
    kinds = ["attack", "dataset", "interpreter", "metric", "step", "study"]
    assert [page.stem for page in GUIDES] == [f"add_{kind}" for kind in kinds]
    for page in GUIDES:
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 160, page.name


def test_a_page_that_rots_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = (\n    1,\n)\n", encoding="utf-8")
    assert write(Block("python", "# a.py (below: x = ()\n    0,\n", 1), tmp_path)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = (\n    0,\n    1,\n)\n"
    with pytest.raises(AssertionError, match="0 lines of"):
        write(Block("python", "# a.py (below: y = ()\n    0,\n", 1), tmp_path)
    with pytest.raises(AssertionError, match="there already"):
        write(Block("python", "# a.py\nx = 1\n", 1), tmp_path)
    assert not write(Block("python", "x = 1\n", 1), tmp_path)
    check_output(Block("text", "a\n...\nd\n", 1), "a\nb\nc\nd\n")
    with pytest.raises(AssertionError, match="expected"):
        check_output(Block("text", "a\n...\nd\n", 1), "a\nb\n")
    page = tmp_path / "page.md"
    page.write_text("```bash\nlightning-adv2 tset\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="line 1: exit code"):
        follow(page, tmp_path)
