"""Every test of this folder runs under these fixtures."""

from collections.abc import Iterator

import pytest
from lab import wandb_home

from cluster.cluster_lab import end_all
from cluster.real_slurm import Slurm, lacking

__all__ = ["wandb_home"]


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if why := lacking():
        pytest.skip(why)
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """A SLURM without jobs."""
    yield cluster
    cluster.end_jobs()
