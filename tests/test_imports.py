"""Which of the package's files import which."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp")  # import-linter's


def circle(package: str) -> list[str]:
    """The files of a circle of imports, also of imports in functions and for type checkers; empty if there is none."""
    graph = grimp.build_graph(package, cache_dir=None)
    try:
        TopologicalSorter({one: graph.find_modules_directly_imported_by(one) for one in graph.modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle() -> None:
    assert circle("lightning_adv2") == []


@pytest.mark.parametrize(
    "line",
    [
        "from drawn.first import one",
        "def two():\n    from drawn.first import one\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from drawn.first import one\n",
    ],
    ids=["module", "function", "type checker"],
)
def test_a_circle_is_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "drawn"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "first.py").write_text("from drawn.second import two\n")
    (package / "second.py").write_text("two = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert circle("drawn") == []
    (package / "second.py").write_text(line)
    assert {*circle("drawn")} == {"drawn.first", "drawn.second"}
