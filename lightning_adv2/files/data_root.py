"""The folder of data and published weights, which configurations call ``data/``."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

DATA = "LIGHTNING_ADV2_DATA"
_PREFIX = "data/"


def data_root() -> Path:
    """Return the folder that the variable ``LIGHTNING_ADV2_DATA`` names, by default ``data`` in the current folder."""
    return Path(os.environ.get(DATA) or _PREFIX).expanduser()


def below_data_root(content: Any) -> Any:
    """Return the same content with each path ``data/X`` put below :func:`data_root`.

    Args:
        content: a path, or mappings, lists and namespaces of a parsed configuration that hold paths. Only texts and
            paths that begin with ``data/`` change, and only where ``LIGHTNING_ADV2_DATA`` is set.
    """
    from jsonargparse import Namespace  # not for whoever asks for the folder alone

    if isinstance(content, Namespace):
        moved = content.clone()
        for key, value in vars(content).items():
            setattr(moved, key, below_data_root(value))
        return moved
    if isinstance(content, dict):
        return {key: below_data_root(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(below_data_root(value) for value in content)
    if os.environ.get(DATA) and isinstance(content, str | PurePath) and str(content).startswith(_PREFIX):
        return type(content)(data_root() / str(content).removeprefix(_PREFIX))
    return content
