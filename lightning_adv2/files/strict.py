"""JSON from files that anybody may have changed. Needs no torch."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Return the content of a JSON text.

    Raises:
        ValueError: the text is no JSON, is nested too deeply, has a number of thousands of digits, or has a key twice
            in an object; of such keys ``json`` alone would take the last without a warning.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is in it twice")
    return content
