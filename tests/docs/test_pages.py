"""What the pages point at is there: files, headings, configurations, commands, flags."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.guide import DOCS, ROOT
from lightning_adv2.attacks.diagnosis import MESSAGES
from lightning_adv2.results.benign import MESSAGES as OF_BENIGN
from lightning_adv2.results.blind import FLAG as BLIND

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), ROOT / "benchmarks/README.md", *NOTEBOOKS]
COMMANDS = {
    "fit", "validate", "test", "predict", "demo", "fetch", "sync", "verify", "export", "report", "reproduce",
}  # fmt: skip

each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """A page's text; of a notebook the text of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as they are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each
def test_links(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", prose(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@each
def test_configurations_and_commands_are_there(page: Path) -> None:
    text = prose(page)
    for file in re.findall(r"(?<![\w/])configs/[\w./-]*\.(?:yaml|sbatch|sh)", text):
        assert (ROOT / file).is_file(), file
    for command in re.findall(r"(?:lightning-adv2|python -m lightning_adv2) +([a-z]+)", text):
        assert command in COMMANDS, command


@each
def test_files_of_the_package_are_there(page: Path) -> None:
    for file in re.findall(r"`(?:lightning_adv2/)?(?!\.)([\w/]+/\w+\.py)`", prose(page)):
        if file.startswith(("tests/", "benchmarks/", "my_")):
            assert (ROOT / file).is_file(), file
        elif not file.startswith("x/"):
            assert (ROOT / "lightning_adv2" / file).is_file(), file


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index]
    assert not missing
    assert not [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in index]


def test_every_flag_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [*MESSAGES, BLIND, *OF_BENIGN]


def test_every_folder_of_configurations_is_explained() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    folders = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
    assert not [name for name in sorted(folders) if f"`configs/{name}/`" not in page]
