"""Where ``data/`` of a configuration is."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import Namespace

from lightning_adv2.files.data_root import below_data_root, data_root

CONTENT = {"root": "data/x", "list": ["data/y.csv", 3], "named": {"weights": "runs/data/z"}, "other": "mydata/x"}


def test_only_what_begins_with_data_moves_and_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_ADV2_DATA", raising=False)
    assert below_data_root(CONTENT) == CONTENT
    assert data_root() == Path("data")
    monkeypatch.setenv("LIGHTNING_ADV2_DATA", "/disk/sets/")
    expected = CONTENT | {"root": "/disk/sets/x", "list": ["/disk/sets/y.csv", 3]}
    assert below_data_root(CONTENT) == expected
    moved = below_data_root(Namespace(part=Namespace(init_args={"a": Path("data/b")}), number=0.5))
    assert moved == Namespace(part=Namespace(init_args={"a": Path("/disk/sets/b")}), number=0.5)
    monkeypatch.setenv("LIGHTNING_ADV2_DATA", "~/sets")
    assert below_data_root("data/x") == str(Path.home() / "sets" / "x")
