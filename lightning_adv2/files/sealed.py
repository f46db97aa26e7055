"""Safetensors files that carry the SHA-256 of their content; the format's own readers notice no flipped bit.

The metadata's ``seal`` is the hash of the rest of the metadata, and of each tensor's name, type, shape and bytes. It is
inside the file so that one rename puts content and seal into place. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lightning_adv2.files.regular import open_regular, tensor_limit

Array: TypeAlias = NDArray[Any]

SEAL = "seal"
_VALUE = re.compile("sha256:[0-9a-f]{64}")


class Stored(NamedTuple):
    """A tensor of any framework.

    Attributes:
        dtype: NumPy's name of its type, such as ``float32``.
        shape: its sizes.
        data: its bytes in C order.
    """

    dtype: str
    shape: Sequence[int]
    data: memoryview


def seal_of(metadata: Mapping[str, str], tensors: Mapping[str, Stored]) -> str:
    """Return the seal of a file with this content: ``sha256:`` and 64 hexadecimal digits.

    Args:
        metadata: without a seal.
        tensors: by name; the order of the names does not matter.
    """
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, (dtype, shape, data) in sorted(tensors.items()):
        digest.update(json.dumps([name, dtype, list(shape)]).encode())
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def check_seal(metadata: Mapping[str, str], tensors: Mapping[str, Stored]) -> None:
    """Check the content of a file against the seal in its metadata; a file from elsewhere may have no seal.

    Args:
        metadata: of the file, with the seal where there is one.
        tensors: of the file, by name.

    Raises:
        ValueError: the content is not the sealed one.
    """
    rest = {key: value for key, value in metadata.items() if key != SEAL}
    if SEAL in metadata:
        if metadata[SEAL] != seal_of(rest, tensors):
            raise ValueError("the file is damaged: its SHA-256 is not the one that it carries")
    elif any(_VALUE.fullmatch(value) for value in rest.values()):  # a flipped bit in the key makes no unsealed file
        raise ValueError("the file is damaged: its seal has lost its name")


def read_sealed(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Return the metadata and the tensors of a safetensors file, after a check of the seal where the file has one.

    Raises:
        OSError: see :func:`read_metadata`.
        ValueError: it is no safetensors file, is damaged, or holds a type that NumPy lacks.
    """
    with _opened(path) as file:
        metadata, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    check_seal(metadata, {name: Stored(array.dtype.name, array.shape, array.data) for name, array in arrays.items()})
    return metadata, arrays


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, unchecked: for a decision about a file that is read and checked later.

    Raises:
        OSError: the file cannot be read, is no regular file, or is larger than
            :func:`~lightning_adv2.files.regular.tensor_limit` allows.
        ValueError: it is no safetensors file, or is cut off.
    """
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    open_regular(path, tensor_limit()).close()  # at a pipe, the library would wait for the other end
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the file is damaged, cut off, or no safetensors file that NumPy can read ({error})"
        ) from error
