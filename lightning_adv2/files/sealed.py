"""Safetensors files that carry their own SHA-256; of the format's own loaders none notices a flipped bit.

The seal is the metadata's ``sha256``: the hash of the whole file with these 64 characters replaced by zeros. Being
inside, it comes into place by the same rename as the content. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_adv2.files.regular import open_regular, tensor_limit
from lightning_adv2.files.whole import written_whole

Array: TypeAlias = NDArray[Any]

# Inside a JSON text quotes are escaped, so this is a key with its value, and nothing else has a key of this name.
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
# Two traces of a seal: one flipped bit cannot make a sealed file look like one that never was.
_TRACES = (b'"sealed":"', b'"sha256":"')
_BLANK = b"0" * 64
_LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes
_SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1",
    "BOOL": "|b1",
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor as it lies in the file.

    Attributes:
        dtype: its name in the format, such as ``F32``.
        shape: of the tensor.
        data: its bytes in C order.
    """

    dtype: str
    shape: Sequence[int]
    data: memoryview


def write_sealed(path: str | Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with its seal, all or nothing; the same content gives the same bytes.

    Raises:
        OSError: see :func:`~lightning_adv2.files.whole.written_whole`.
        ValueError: a tensor's type has no name in the format.
    """
    unknown = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in _SIZES]
    if unknown:
        raise ValueError(f"tensors: no such type in safetensors: {', '.join(unknown)}; convert to one of {[*_SIZES]}")
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), "sealed": "sha256", "sha256": _BLANK.decode()}}
    # The widest first: then every tensor starts at a multiple of its own width.
    ordered = sorted(tensors, key=lambda name: (-_SIZES[tensors[name].dtype], name))
    end = 0
    for name in ordered:
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + data.nbytes]}
        end += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *(tensors[n].data for n in ordered)]
    digest = hashlib.sha256()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        for part in parts:
            stream.write(part)
            digest.update(part)
        found = _SEAL.search(text)
        assert found is not None
        stream.seek(8 + found.start(1))
        stream.write(digest.hexdigest().encode())


def check_seal(path: Path) -> bool:
    """Whether a safetensors file has a seal. Reads all of the file, and holds none of it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut off, or its content is not what was sealed.
    """
    with open_regular(path) as stream:
        if not os.fstat(stream.fileno()).st_size:
            raise ValueError("the file is damaged: it is empty")
        _header_length(stream.read(8))  # before any of it is mapped
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            return _check(content)


def read_sealed(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Read metadata and tensors of a file; what has a seal must match it. The file is read once.

    Raises:
        OSError: the file cannot be read, is no regular one, or is larger than
            :func:`~lightning_adv2.files.regular.tensor_limit` allows.
        ValueError: it is damaged, or holds a type that NumPy lacks.
    """
    with open_regular(path, tensor_limit()) as stream:
        content = np.fromfile(stream, np.uint8)
    view = content.data
    header = _header(view)
    _check(view)
    data = content[8 + len(header) :]
    metadata, entries = _parse(header)
    try:
        return metadata, {name: _array(name, entry, data) for name, entry in entries.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"the file is no safetensors file ({error!r} in its header)") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone, unchecked: for deciding about a file that is read and checked later.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no header.
    """
    with open_regular(path) as stream:
        length = stream.read(8)
        return _parse(_header(length + stream.read(_header_length(length))))[0]


def _header_length(content: memoryview | bytes) -> int:
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"the file is damaged: a header of {length:,} bytes, where {_LONGEST_HEADER:,} are the most")
    return length


def _header(content: memoryview | bytes) -> bytes:
    length = _header_length(content)
    if len(content) < 8 + length or not length:
        raise ValueError("the file is damaged: it is cut off, or its header is")
    return bytes(content[8 : 8 + length])


def _parse(header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise TypeError("metadata")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the file is damaged: its header cannot be read") from error
    return metadata, entries


def _check(content: memoryview) -> bool:
    header = _header(content)
    if not any(trace in header for trace in _TRACES):
        return False
    seals = list(_SEAL.finditer(header))
    if len(seals) != 1:
        raise ValueError("the file is damaged: its seal cannot be read")
    start, end = (8 + place for place in seals[0].span(1))
    digest = hashlib.sha256(content[:start])
    digest.update(_BLANK)
    digest.update(content[end:])
    if digest.hexdigest().encode() != seals[0][1]:
        raise ValueError("the file is damaged: its SHA-256 is not the one that it carries")
    return True


def _array(name: str, entry: Mapping[str, Any], data: NDArray[np.uint8]) -> Array:
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"tensor {name!r}: NumPy has no type {entry['dtype']}; read the file with read_weights")
    start, end = entry["data_offsets"]
    values: Array = data[start:end].view(_TYPES[entry["dtype"]])
    return values.reshape(entry["shape"])
