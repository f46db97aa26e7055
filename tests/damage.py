"""Ways in which a file goes bad, and what a seal must be, by other means than the package's own."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def data_start(content: bytes) -> int:
    """Where a safetensors file's tensors begin."""
    return 8 + int.from_bytes(content[:8], "little")


_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "I64": "int64",
    "I32": "int32", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def seal_of(content: bytes) -> tuple[str, str]:
    """The seal that a safetensors file carries, and that which it should."""
    header = json.loads(content[8 : data_start(content)])
    metadata = header.pop("__metadata__")
    carried = metadata.pop("seal")
    assert re.fullmatch("sha256:[0-9a-f]{64}", carried)
    text = json.dumps(metadata, sort_keys=True).encode()
    for name in sorted(header):
        start, end = (data_start(content) + place for place in header[name]["data_offsets"])
        text += json.dumps([name, _TYPES[header[name]["dtype"]], header[name]["shape"]]).encode() + content[start:end]
    return carried, f"sha256:{hashlib.sha256(text).hexdigest()}"


def flipped(content: bytes, count: int, seed: int = 0, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """The content with one bit flipped, at ``count`` random places from ``start`` on."""
    draw = random.Random(seed)
    for place in draw.sample(range(8 * start, 8 * len(content)), count):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield f"bit {place % 8} of byte {place // 8} of {len(content)}", bytes(changed)


def truncated(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The content cut off, at the ends and at random places."""
    draw = random.Random(seed)
    for size in [0, 7, 8, len(content) - 1, *draw.sample(range(9, len(content) - 1), count - 4)]:
        yield f"{size} bytes of {len(content)}", content[:size]


def flip_data(path: Path) -> None:
    """Flip a bit of the last tensor, in place."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """What the ValueError says with which a file is refused; empty where it is read."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""
