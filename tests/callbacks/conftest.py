"""W&B without a key and outside the home folder, in every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from callbacks.lab import shut_in


@pytest.fixture(autouse=True)
def wandb_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("wandb_home")
    shut_in(monkeypatch, folder)
    yield folder
    wandb.finish()  # a run left open would be picked up by the next logger
    wandb.teardown()  # and the environment is read when W&B starts
