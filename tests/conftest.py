"""Fixtures of all tests, and how the tests share the cores.

The whole suite takes all cores, by pytest-xdist; files that are named on the command line take one, unless ``-n`` says
how many. Importing ``cases`` works because pytest puts this folder on the path.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import spawn
import torch
from cases import lattice_images, small_classifier
from hypothesis import settings
from torch import Tensor

from lightning_adv2.models import Classifier

# Many tests start two or three processes: with several threads each they would wait for one another on few cores, and
# take ten times as long. The subprocesses inherit the variable; this process has loaded torch already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# What the processes of a session share, those that xdist starts and those that tests start.
if "LAB" not in os.environ:
    os.environ["LAB"] = tempfile.mkdtemp(prefix="lab")
    atexit.register(shutil.rmtree, os.environ["LAB"], ignore_errors=True)

# Matplotlib's list of fonts, which takes it seconds, is made once for all processes, whatever their home.
os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).parents[1] / "build" / "matplotlib"))

# A shell's background jobs ignore SIGINT, as do their children; tests send it, and a terminal's jobs do not ignore it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Real data and weights, which no checkout carries; the configurations find them by the variable, in subprocesses too.
SHARED_DATA = Path(os.environ.get("LIGHTNING_ADV2_SHARED", str(Path(__file__).parents[2] / "shared"))) / "data"
if SHARED_DATA.is_dir():
    os.environ["LIGHTNING_ADV2_DATA"] = str(SHARED_DATA)

LONGEST = ("test_slurm_runs.py", "test_wandb.py", "test_guides.py", "test_benchmarks.py",
           "test_uneven.py", "test_notebooks.py")  # fmt: skip
"""Files whose tests take minutes: begun last, they would run alone at the end."""

# The same examples on every run: a failure in CI can be repeated anywhere.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let the whole suite run on all cores; runs before xdist looks at its options."""
    options, worker = config.option, "PYTEST_XDIST_WORKER" in os.environ
    if worker or not config.pluginmanager.hasplugin("xdist") or config.args != config.getini("testpaths"):
        return
    if options.numprocesses is None and options.dist == "no":
        # One more than there are cores, for some tests wait.
        options.numprocesses = (os.cpu_count() or 1) + 1
    if options.dist == "no":
        # Neighbours mostly stay together, and with them what a file's tests share.
        options.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What libraries and collected tests are made of stays: nobody need look through it for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end all goes, in the usual way."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    spawn.end_all()


@pytest.fixture
def classifier() -> Classifier:
    """A small random classifier, in single precision."""
    return small_classifier()


@pytest.fixture
def classifier64() -> Classifier:
    """The same in double precision, where finite differences and batch independence can be exact."""
    return small_classifier(dtype=torch.float64)


@pytest.fixture
def make_images() -> Callable[..., Tensor]:
    """Seeded images on the 8-bit lattice; see ``cases.lattice_images``."""
    return lattice_images


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data and weights, which no checkout of the repository carries."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}; set LIGHTNING_ADV2_SHARED to the folder that holds data/")
    return SHARED_DATA
