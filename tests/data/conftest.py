from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw(seed: int, height: int = 20, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def write_images() -> Callable[..., None]:
    """Writes random images ``<split>/<class>/<number>.png``, in descending order."""

    def write(root: Path, per_class: dict[str, int], split: str = "val", **size: int) -> None:
        for place, (name, count) in reversed(list(enumerate(per_class.items()))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in reversed(range(count)):
                draw(1000 * place + number, **size).save(folder / f"{number}.png")

    return write


@pytest.fixture
def zip_folder() -> Callable[[Path, Path], Path]:
    """Puts a folder's files into a zip, in descending order."""

    def pack(root: Path, target: Path) -> Path:
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(root.rglob("*"), reverse=True):
                if path.is_file():
                    archive.write(path, path.relative_to(root).as_posix())
        return target

    return pack


@pytest.fixture
def shared() -> Path:
    """The folder of real data."""
    default = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("LIGHTNING_ADV2_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LIGHTNING_ADV2_SHARED")
    return folder
