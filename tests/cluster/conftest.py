"""Every test of this folder runs under these fixtures."""

from collections.abc import Iterator

import pytest
from callbacks.lab import wandb_home

from cluster.cluster_lab import end_all

__all__ = ["wandb_home"]


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    end_all()
