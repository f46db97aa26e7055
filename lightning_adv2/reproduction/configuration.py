"""A configuration file with the files that it names, as the command line reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_adv2.files import read_text


def read_configuration(path: str | Path) -> Any:
    """Return the content of a YAML file, with the content of a part in the place of every path to that part.

    A part is a YAML file of one class (``classifier: ../classifier/resnet20_cifar10.yaml``); its path begins at the
    file that names it. Parts may name further parts.

    Raises:
        FileNotFoundError: the file, or a part, does not exist.
        ValueError: a file is a part of itself.
    """
    return _read(Path(path), ())


def _read(path: Path, above: tuple[Path, ...]) -> Any:
    if not path.is_file():
        named = f", which {above[-1]} names; a relative path begins at the file that names it" if above else ""
        raise FileNotFoundError(f"configuration {str(path)!r} does not exist{named}")
    if path.resolve() in (one.resolve() for one in above):
        raise ValueError(f"configuration {str(path)!r} is a part of itself; remove its path from {above[-1]}")
    return _with_parts(yaml.safe_load(read_text(path)), (*above, path))


def _with_parts(content: Any, above: tuple[Path, ...]) -> Any:
    if isinstance(content, dict):
        return {key: _with_parts(value, above) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_parts(value, above) for value in content]
    if isinstance(content, str) and content.endswith(".yaml"):
        return _read(above[-1].parent / content, above)
    return content
