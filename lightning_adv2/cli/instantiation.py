"""Errors that a class raises during its instantiation, unchanged and with the key in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_adv2.cli.patching import ACTION, TYPES, function, replaced


class _Raised(BaseException):
    """Carries an error past jsonargparse, which would report it as a value of the wrong type."""

    def __init__(self, error: Exception, class_path: str) -> None:
        super().__init__(error)
        self.error, self.class_path = error, class_path
        self.keys: list[str] = []


def with_errors_of_classes(make: Callable[[], None]) -> None:
    """Call ``make``, and raise the error of a class or function unchanged.

    jsonargparse tries the members of a union one by one, and reports one error about all of them, with the whole
    configuration (versions 4.40 and 4.53). Two of its functions are wrapped during the call.

    Args:
        make: instantiates classes of a configuration.

    Raises:
        Exception: of the class, with a note of its key and class path:
            ``at model.init_args.classifier (lightning_adv2.models.ResidualClassifier)``.
    """
    adapt = function(TYPES, "adapt_class_type")
    instantiate = function(ACTION, "instantiate_classes")

    def adapt_class(value: Any, serialize: bool, instantiate_classes: bool, *args: Any, **kwargs: Any) -> Any:
        if not instantiate_classes:
            return adapt(value, serialize, instantiate_classes, *args, **kwargs)
        class_path = str(value["class_path"])
        try:
            return adapt(value, serialize, instantiate_classes, *args, **kwargs)
        except Exception as error:
            raise _Raised(error, class_path) from error

    def instantiate_key(action: Any, value: Any) -> Any:
        try:
            return instantiate(action, value)
        except _Raised as raised:
            raised.keys.insert(0, action.dest)
            raise

    try:
        with (
            replaced(TYPES, adapt_class_type=adapt_class),
            replaced(ACTION, instantiate_classes=instantiate_key),
        ):
            return make()
    except _Raised as raised:
        error = raised.error
        error.add_note(f"at {'.init_args.'.join(raised.keys)} ({raised.class_path})")
    raise error  # out here its context is the class's own, not ours
