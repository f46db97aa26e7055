"""Follow a page of the documentation to the letter, in a copy of the repository.

Of a fenced block the language says what is done with it: ``python`` and ``yaml`` blocks whose first line is a comment
with a file's name are that file, or go below or in place of the one line that the comment quotes, or at the end of the
file; ``bash`` blocks are run; a ``text`` block is what the ``bash`` block before it must print, ``...`` for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COPIED = ("lightning_adv2", "tests", "configs", "pyproject.toml", "README.md")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(
    r"^# (?P<file>[\w./-]+\.\w+)(?: \((?:(?P<how>below|instead of): (?P<line>.*)|(?P<end>at the end))\))?$"
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page where it starts."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], content.count("\n", 0, m.start()) + 1) for m in _FENCE.finditer(content)]


def copy_repository(folder: Path) -> Path:
    """What a page may change or run, without results and caches."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def write(block: Block, folder: Path) -> bool:
    """Put a block where its first line says; False where that names no file."""
    first, _, rest = block.text.partition("\n")
    place = _PLACE.match(first)
    if place is None:
        return False
    path = folder / place["file"]
    if place["line"] is None and place["end"] is None:
        assert not path.exists(), f"line {block.line}: {place['file']} is there already; say below which line"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rest, encoding="utf-8")
        return True
    content = path.read_text(encoding="utf-8")
    if place["end"] is not None:
        path.write_text(content + rest, encoding="utf-8")
        return True
    lines = content.splitlines(keepends=True)
    found = [i for i, one in enumerate(lines) if one.strip() == place["line"].strip()]
    assert len(found) == 1, f"line {block.line}: {len(found)} lines of {place['file']} are {place['line']!r}"
    lines[found[0]] = rest if place["how"] == "instead of" else lines[found[0]] + rest
    path.write_text("".join(lines), encoding="utf-8")
    return True


def run(block: Block, folder: Path) -> str:
    """Run a ``bash`` block; what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "WANDB_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"line {block.line}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"[-6000:]
    return done.stdout


def check_output(block: Block, printed: str) -> None:
    """The whole output must be what the block shows."""
    pattern = re.escape(block.text.strip()).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"line {block.line}: expected\n{block.text}got\n{printed}"


def follow(page: Path, folder: Path) -> int:
    """Do all that the page says; how many blocks that were."""
    done, printed = 0, None
    for block in blocks(page):
        if block.language == "bash":
            printed = run(block, folder)
        elif block.language == "text":
            assert printed is not None, f"line {block.line}: nothing was run that could print this"
            check_output(block, printed)
        elif block.language in ("python", "yaml"):
            assert write(block, folder), f"line {block.line}: the first line must be a comment with a file's name"
        else:
            raise AssertionError(f"line {block.line}: a block of {block.language!r}; give python, yaml, bash or text")
        done += 1
    return done
