"""Image files in ``<split>/<class>/<image>``, in a folder or inside a zip, read without extracting."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Storage(ABC):
    """Where the image files lie.

    Args:
        root: the folder or the zip file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def splits(self) -> list[str]:
        """The sorted names at the top level."""

    @abstractmethod
    def images(self, split: str) -> dict[str, list[str]]:
        """The paths ``<split>/<class>/<image>`` of each class's images; classes and paths sorted."""

    @abstractmethod
    def files(self) -> list[str]:
        """The sorted paths of all image files at any depth, hidden ones left out."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of one file."""


class FolderStorage(Storage):
    """A folder."""

    def splits(self) -> list[str]:
        """The names of its folders."""
        return sorted(path.name for path in self.root.iterdir() if _visible(path.name) and path.is_dir())

    def images(self, split: str) -> dict[str, list[str]]:
        """Sorted by name, not in the file system's order."""
        folders = sorted(path for path in (self.root / split).iterdir() if _visible(path.name) and path.is_dir())
        return {
            folder.name: sorted(
                f"{split}/{folder.name}/{path.name}" for path in folder.iterdir() if _is_image(path.name)
            )
            for folder in folders
        }

    def files(self) -> list[str]:
        """Sorted by path, not in the file system's order."""
        return _image_files(path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        return (self.root / path).read_bytes()


class ZipStorage(Storage):
    """A zip file, opened once per process: a handle does not survive pickling, and forks would share its position."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self.root)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{self.root} is no readable zip file ({error}); copy or download it again") from error
        return self._opened[1]

    def splits(self) -> list[str]:
        """The names of its top folders."""
        parts = (PurePosixPath(name).parts for name in self._zip().namelist())
        return sorted({part[0] for part in parts if len(part) > 1 and _visible(part[0])})

    def images(self, split: str) -> dict[str, list[str]]:
        """Sorted by name, not in the archive's order; a name that is there twice counts once."""
        found: dict[str, list[str]] = {}
        for name in sorted(set(self._zip().namelist())):
            parts = PurePosixPath(name).parts
            if len(parts) < 2 or parts[0] != split or not _visible(parts[1]):
                continue
            if len(parts) == 2 and name.endswith("/"):
                found.setdefault(parts[1], [])
            if len(parts) == 3 and not name.endswith("/") and _is_image(parts[2]):
                found.setdefault(parts[1], []).append(name)
        return dict(sorted(found.items()))

    def files(self) -> list[str]:
        """Sorted by path, not in the archive's order; a name that is there twice counts once."""
        return _image_files({PurePosixPath(name) for name in self._zip().namelist() if not name.endswith("/")})

    def read(self, path: str) -> bytes:
        """The bytes of one member, checked against its CRC."""
        return self._zip().read(path)


def _visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def _is_image(name: str) -> bool:
    return _visible(name) and name.lower().endswith(EXTENSIONS)


def _image_files(paths: Iterable[PurePath]) -> list[str]:
    return sorted(path.as_posix() for path in paths if all(map(_visible, path.parts)) and _is_image(path.name))


def find_storage(root: Path, split: str) -> Storage | None:
    """The storage that holds ``split``: ``root`` itself, or ``root/<split>.zip``; None where there is no such split.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        ValueError: ``root`` is a file but no zip.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"root={str(root)!r} does not exist; give a folder or a zip with <split>/<class>/<image>"
        )
    if root.is_dir() and not (root / split).is_dir() and (root / f"{split}.zip").is_file():
        root = root / f"{split}.zip"
    storage: Storage = FolderStorage(root) if root.is_dir() else ZipStorage(root)
    return storage if split in storage.splits() else None


def describe(root: Path) -> str:
    """What ``root`` holds at its top level, for error messages."""
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else ZipStorage(root).splits()
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}" if names else "nothing"
