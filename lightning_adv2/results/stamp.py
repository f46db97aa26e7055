"""The stamp of a run: versions, machine, time and revision that its numbers were made with."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("lightning-adv2", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "wandb")


def make_stamp(**facts: Any) -> dict[str, Any]:
    """The stamp: ``facts``, then time, Python, platform, package versions, git revision of the package and command."""
    return {
        **facts,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Commit of the package's own checkout, ``+`` for uncommitted changes; None outside a repository."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not installed inside somebody else's checkout
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
