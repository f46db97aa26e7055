"""Checkpoints that are whole or absent, carry their SHA-256, and run no code when they are read."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from lightning_adv2.files import open_regular, written_whole

_MARK = b"sha256:"
_SEAL_LENGTH = len(_MARK) + 64
# The zip's last 22 bytes: signature, six counts and offsets, and the length of the comment that follows.
_END_LENGTH, _END_SIGNATURE = 22, b"PK\x05\x06"
_REMEDY = "name another checkpoint (--ckpt_path), or remove the folder to train from the start"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be trusted: it is damaged, cut off, or not sealed."""


class SealedCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written all or nothing, sealed, and read as plain data alone.

    A checkpoint is torch's zip file, and the zip's comment is the SHA-256 of all bytes before it, so that
    ``torch.load`` still reads the file. The seal is inside because a rename then replaces content and seal together:
    with a sum in a second file, a kill between the two renames would leave a checkpoint that matches no sum. The former
    checkpoint of the same name stays beside the new one as ``<name>.previous``, and takes over if the new one is
    damaged.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write and seal a checkpoint; keep the former one of this name, if it is intact, as ``<name>.previous``.

        Args:
            checkpoint: Lightning's content.
            path: the file; its folder is made where it is missing.
            storage_options: there for Lightning; must be None.

        Raises:
            OSError: the disk is full or the folder cannot be written; the former checkpoint is untouched.
            TypeError: ``storage_options`` are given.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options={storage_options!r}: {type(self).__name__} takes none; leave them out")
        path = Path(path)
        content = _sealed(checkpoint)
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
            if fault(path) is None:
                _keep(path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Return the content of a checkpoint, after a check of its seal.

        ``<name>.previous`` stands in for a damaged or missing checkpoint, with a warning.

        Args:
            path: the checkpoint.
            map_location: as ``torch.load`` takes it.
            weights_only: there for Lightning; only plain data are ever read, whatever is given.

        Raises:
            FileNotFoundError: the checkpoint is missing, and no intact previous one lies beside it.
            CheckpointError: the checkpoint is damaged or not sealed, and no intact previous one lies beside it; or the
                file holds more than plain data.
        """
        path = Path(path)
        chosen, wrong = path, fault(path)
        if wrong is not None:
            chosen = previous(path)
            if fault(chosen) is not None:
                if not path.exists():
                    raise FileNotFoundError(f"{path}: no such checkpoint; {_REMEDY}")
                raise CheckpointError(f"{path} {wrong}, and no intact {chosen.name} lies beside it; {_REMEDY}")
            rank_zero_warn(f"{path} {wrong}; going on with {chosen} instead, the checkpoint before it")
        try:
            with open_regular(chosen) as stream:
                content: dict[str, Any] = torch.load(stream, map_location=map_location, weights_only=True)
        except Exception as error:  # the unpickler refuses in several ways
            raise CheckpointError(
                f"{chosen} is whole but holds more than plain data ({error}); it was not made by this program, and "
                f"nothing of it was run; {_REMEDY}"
            ) from error
        return content

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove the checkpoint and its previous one, where they exist.

        Raises:
            OSError: a file cannot be removed.
        """
        path = Path(path)
        for file in (path, previous(path)):
            file.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Return the path under which the former checkpoint of this path is kept."""
    return path.with_name(path.name + ".previous")


def fault(path: Path) -> str | None:
    """Return the fault of a checkpoint file in words; None where its seal is right. Nothing of it is unpickled."""
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            if size < _END_LENGTH + _SEAL_LENGTH:
                return f"is cut off ({size} bytes)"
            stream.seek(size - _SEAL_LENGTH - _END_LENGTH)
            end, comment = stream.read(_END_LENGTH), stream.read(_SEAL_LENGTH)
            stream.seek(0)
            digest = hashlib.sha256()
            while part := stream.read(min(1 << 20, size - _SEAL_LENGTH - stream.tell())):
                digest.update(part)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error})"
    if comment == _MARK + digest.hexdigest().encode():
        return None
    if end[:4] == _END_SIGNATURE and comment.startswith(_MARK):
        return "is damaged: its content is not what its SHA-256 was taken of"
    return (
        "has no intact seal: it is cut off or damaged, or was not saved through SealedCheckpointIO "
        "(Trainer(plugins=[SealedCheckpointIO()]))"
    )


def _sealed(checkpoint: dict[str, Any]) -> memoryview:
    """The file's content: the SHA-256 of all before it is the zip's comment."""
    # Into memory first, as Lightning does: written to a full disk, torch.save says nothing of the disk.
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    end = buffer.seek(-_END_LENGTH, os.SEEK_END)
    if buffer.read(4) != _END_SIGNATURE:
        raise CheckpointError("torch.save left no plain zip, which the seal needs; this version of torch is too new")
    buffer.seek(end + _END_LENGTH - 2)
    buffer.write(struct.pack("<H", _SEAL_LENGTH))
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(_MARK + digest.encode())
    return buffer.getbuffer()


def _keep(path: Path) -> None:
    """Give the file a second name: it exists under one of them at every instant."""
    kept = previous(path)
    link = path.with_name(f".{kept.name}.tmp")
    with suppress(FileNotFoundError):
        link.unlink()
    try:
        link.hardlink_to(path)
        link.replace(kept)
    except OSError:  # a file system without hard links: for an instant only the previous one is there
        path.replace(kept)
