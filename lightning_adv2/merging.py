"""How one part of a configuration takes another's place: a list as a whole, a class with its own defaults."""

from __future__ import annotations

import functools
from typing import Any

import jsonargparse._typehints


def replace_wholes() -> None:
    """Let a list given anew replace the old one, and another class start from its own defaults, in this process.

    jsonargparse (4.40 to 4.53) merges two lists of equal length item by item, and hands the arguments of one class to
    the next where it has some of the same name: attacks on the command line kept arguments of the file's attacks.
    Items added (``+=``), and single arguments of a class (``--model.init_args.x``), are merged as ever.
    """
    typehints: Any = jsonargparse._typehints
    check = typehints.ActionTypeHint._check_type
    if hasattr(check, "__wrapped__"):
        return

    @functools.wraps(check)
    def check_type(self: Any, value: Any, append: bool = False, cfg: Any = None, **options: Any) -> Any:
        given_anew = not append and not isinstance(value, typehints.NestedArg)
        if cfg and given_anew and isinstance(cfg.get(self.dest), list):
            cfg = None
        return check(self, value, append=append, cfg=cfg, **options)

    def discard(parser_or_action: Any, previous: Any, value: Any) -> None:
        if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
            for name in list(previous["init_args"].keys()):
                del previous["init_args"][name]

    typehints.ActionTypeHint._check_type = check_type
    typehints.discard_init_args_on_class_path_change = discard
