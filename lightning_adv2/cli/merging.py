"""How configurations are merged: a list, or another class, starts from its own defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace

from lightning_adv2.cli.patching import TYPES, NestedArg, function, replaced


@contextmanager
def starting_anew() -> Iterator[None]:
    """Parse under the rule of docs/configuration.md: values are merged by key, lists and other classes replaced.

    jsonargparse merges the classes of two lists of equal length by position, and carries arguments over from one class
    to another that has an argument of the same name. It has no setting for either (versions 4.40 and 4.53), so two of
    its functions are wrapped inside the context. The wrappers also pass on ``null`` for an argument two classes down,
    which jsonargparse passes on as the text ``None``. Dotted overrides of the last class in a list
    (``--trainer.callbacks.init_args.seed 1``), ``+=``, and the same class given again at the same key merge as before.
    """
    adapt = function(TYPES, "adapt_typehints")

    def adapt_anew(val: Any, typehint: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(val, NestedArg) and "." in val.key and isinstance(typehint, type) and _has_none(val.val):
            val = NestedArg(val.key, json.dumps(val.val))  # passed on as text, and parsed again
        if isinstance(val, list) and not kwargs.get("append") and isinstance(kwargs.get("prev_val"), list | Namespace):
            kwargs["prev_val"] = []
        return adapt(val, typehint, *args, **kwargs)

    def discard_all(parser_or_action: Any, prev_val: Any, value: Any) -> None:
        if prev_val and "class_path" in prev_val and prev_val["class_path"] != value["class_path"]:
            for key in ("init_args", "dict_kwargs"):
                if key in prev_val:
                    prev_val.pop(key)

    with replaced(TYPES, adapt_typehints=adapt_anew, discard_init_args_on_class_path_change=discard_all):
        yield


def _has_none(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_none, value.values()))
    return value is None or (isinstance(value, list) and any(map(_has_none, value)))
