"""Image files in ``<split>/<class>/.../<image>``, in a folder or inside a zip, read without extracting."""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_adv2.data.text_files import nfc
from lightning_adv2.files import open_regular, read_bytes
from lightning_adv2.files.images import EXTENSIONS, image_limit
from lightning_adv2.files.regular import check_size

# Written by systems and not by people.
_SYSTEM = {
    "__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information", "thumbs.db",
    "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip

Sorted = tuple[list[str], dict[str, str]]
"""The sorted paths of the images, and of every other file its path and why it is not read."""


class Storage(ABC):
    """The place of image files: a folder or a zip.

    Hidden files and folders (``.x``) and those of a system (``__MACOSX``, ``Thumbs.db``, ...) do not count.

    Args:
        root: the folder or the zip file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def folders(self, under: str = "") -> list[str]:
        """Return the sorted names of the folders directly below ``under``, also of those that do not count."""

    @abstractmethod
    def walk(self, under: str = "", deep: bool = True) -> Iterator[tuple[str, str]]:
        """Yield path and fault of each file below ``under``; the fault is empty where the file can be read.

        Args:
            under: a folder's path; empty for all.
            deep: False for the files directly in it alone.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the bytes of one file.

        Args:
            path: from :meth:`walk`.

        Raises:
            OSError: the file cannot be read, is no regular file, or is larger than
                :func:`~lightning_adv2.files.images.image_limit` allows.
        """

    def splits(self) -> list[str]:
        """Return the sorted names of the folders at the top level."""
        return [printable(name) for name in self.folders() if not _ignored(name)]

    def images(self, split: str, classes: Collection[str] = ()) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return the paths ``<split>/<class>/.../<image>`` of each class folder's images, and other files.

        Args:
            split: the split's folder.
            classes: folders that count although their names say otherwise.

        Returns:
            Class folder -> paths, folders sorted by name; and path -> reason for every other file of the split.

        Raises:
            ValueError: a class folder's name is not UTF-8; without it the classes would be numbered otherwise.
        """
        left_out = {path: why or "it lies in no class folder" for path, why in self.walk(split, deep=False)}
        named = set(map(nfc, classes))
        found: dict[str, list[str]] = {}
        for folder in sorted(self.folders(split), key=nfc):
            if nfc(folder) in named or not _ignored(folder):
                if printable(folder) != folder:
                    raise ValueError(
                        f"{self.root}: the name of the class folder {split}/{printable(folder)} is not UTF-8; rename it"
                    )
                found[folder], others = _sort_out(self.walk(f"{split}/{folder}"))
                left_out |= others
        return found, left_out

    def files(self) -> Sorted:
        """Return the image files at any depth, and all others with the reason why they are not read."""
        return _sort_out(self.walk())


class FolderStorage(Storage):
    """A folder. Links are followed; a folder that several links lead to is read once, and so is a loop."""

    def folders(self, under: str = "") -> list[str]:
        """Return the folders directly below ``under``, sorted by name, not in the file system's order."""
        return sorted(path.name for path in (self.root / under).iterdir() if path.is_dir())

    def walk(self, under: str = "", deep: bool = True) -> Iterator[tuple[str, str]]:
        """Yield path and fault of each file, folders before links to folders; see :meth:`Storage.walk`."""
        top = self.root / under
        read = {folder for start in (top.resolve(), self.root.resolve()) for folder in (start, *start.parents)}
        waiting, links = [under], list[str]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            if folder != under:
                real = (self.root / folder).resolve()
                if real in read:
                    yield folder, "a link to a folder that is read already, or to one above"
                    continue
                read.add(real)
            with os.scandir(self.root / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if _ignored(entry.name):
                        continue
                    is_folder, is_file = _kind(entry)
                    if printable(entry.name) != entry.name:  # it could stand in no file that a run leaves
                        yield printable(path), "its name is not UTF-8"
                    elif not is_folder:
                        yield path, "" if is_file else "it is no regular file"
                    elif deep:
                        (links if entry.is_symlink() else waiting).append(path)

    def read(self, path: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            OSError: see :meth:`Storage.read`.
        """
        return read_bytes(self.root / path, image_limit())


class ZipStorage(Storage):
    """A zip file, opened once per process: a handle does not survive pickling, and forks would share its position.

    Names without ``/`` whose folders are separated by backslashes, as some programs for Windows write them, are read as
    if they had ``/``; names that do not state UTF-8, as from a Mac, are read as UTF-8 where possible. Members are
    stored or deflated.

    Args:
        root: the zip file.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._listed: tuple[list[str], dict[str, zipfile.ZipInfo]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_listed": None}

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                with open_regular(self.root):  # a pipe would keep the next line waiting
                    self._opened = os.getpid(), zipfile.ZipFile(self.root)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{self.root}: the name {error.object!r} in it says that it is UTF-8 and is not; pack the zip anew"
                ) from error
            except (OSError, zipfile.BadZipFile) as error:
                why = error.strerror or error if isinstance(error, OSError) else error
                raise ValueError(f"{self.root} is no readable zip file ({why}); copy or download it again") from error
        return self._opened[1]

    def _members(self) -> tuple[list[str], dict[str, zipfile.ZipInfo]]:
        """The sorted paths, those of folders with ``/`` at the end, and what is there; of two of a name, the later."""
        if self._listed is None:
            found: dict[str, zipfile.ZipInfo] = {}
            for member in self._zip().infolist():
                path = _member_path(member)
                other = found.setdefault(path, member)
                if other.filename != member.filename:
                    raise ValueError(
                        f"{self.root}: {other.filename!r} and {member.filename!r} are both {path!r}; rename one of them"
                    )
                found[path] = member
            self._listed = sorted(found), found
        return self._listed

    def _below(self, under: str) -> Iterator[str]:
        """The paths below a folder, relative to it."""
        paths, start = self._members()[0], f"{under}/" if under else ""
        for place in range(bisect_left(paths, start), len(paths)):
            if not paths[place].startswith(start):
                return
            if paths[place] != start:
                yield paths[place][len(start) :]

    def folders(self, under: str = "") -> list[str]:
        """Return the folders directly below ``under``, sorted by name, not in the archive's order."""
        return sorted({path.split("/")[0] for path in self._below(under) if "/" in path})

    def walk(self, under: str = "", deep: bool = True) -> Iterator[tuple[str, str]]:
        """Yield path and fault of each member; see :meth:`Storage.walk`. Sorted by path, not in the archive's order."""
        for path in self._below(under):
            parts = path.split("/")
            if parts[-1] and (deep or len(parts) == 1) and not any(map(_ignored, parts)):
                yield f"{under}/{path}" if under else path, ""

    def read(self, path: str) -> bytes:
        """Return the bytes of one member, checked against its CRC, and never more than its stated size.

        Raises:
            OSError: the member is larger than :func:`~lightning_adv2.files.images.image_limit` allows.
            ValueError, zipfile.BadZipFile: the member is damaged, encrypted, or compressed otherwise than by deflate.
        """
        member = self._members()[1][path]
        check_size(member.file_size, image_limit(), path)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Of these zipfile inflates all that it reads at once, and a kilobyte may become a gigabyte.
            raise ValueError("it is compressed by another method than deflate; pack the zip anew")
        with self._zip().open(member) as stream:
            return stream.read(member.file_size)


def _member_path(member: zipfile.ZipInfo) -> str:
    name = member.filename
    if not member.flag_bits & 0x800:  # not said to be UTF-8, and so taken for code page 437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    if "/" not in name:
        name = name.replace("\\", "/")
    return PurePosixPath(name.lstrip("/")).as_posix() + ("/" if name.endswith("/") else "")


def printable(name: str) -> str:
    """Return a name as text: bytes of a file system's name that are not UTF-8 as ``\\xe9``; any other name as it is."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is a folder, and whether it is a file; a link to nothing is one that is not there.

    Only links are looked into, which takes time on a file server.
    """
    if not entry.is_symlink():
        return entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
    path = Path(entry.path)  # an entry's own questions raise at a link to itself
    return path.is_dir(), path.is_file() or not path.exists()


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM


def _sort_out(files: Iterable[tuple[str, str]]) -> Sorted:
    images: list[str] = []
    left_out: dict[str, str] = {}
    for path, why in files:
        if not why and path.lower().endswith(EXTENSIONS):
            images.append(path)
        else:
            left_out[path] = why or "its name does not end as an image's does"
    return sorted(images, key=nfc), dict(sorted(left_out.items()))


def find_storage(root: Path, split: str) -> Storage | None:
    """Return the storage that holds a split, ``root`` or ``root/<split>.zip``; None without such a split.

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
    return storage if split in storage.folders() else None


def describe(root: Path) -> str:
    """Return the names at the top level of ``root`` in one line, for error messages."""
    names = sorted(printable(path.name) for path in root.iterdir()) if root.is_dir() else ZipStorage(root).splits()
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}" if names else "nothing"
