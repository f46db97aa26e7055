"""Short names: the last part of a class path is enough for classes and functions of the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, get_type_hints

from lightning_adv2.cli.patching import TYPES, function, replaced
from lightning_adv2.files.likeness import alike

PACKAGES = ("interpreters", "attacks", "evaluation", "studies", "data", "detectors", "metrics", "models", "modules")


@contextmanager
def short_names() -> Iterator[None]:
    """Parse with short names for functions as well, and refuse an unknown name with a list of the known names.

    jsonargparse finds a class by the last part of its class path, but not a function that returns an object of the
    class, and of an unknown name it reports that the name has no dot (versions 4.40 and 4.53).
    """
    resolve = function(TYPES, "resolve_class_path_by_name")

    def resolve_anew(kind: Any, name: str) -> str:
        if isinstance(kind, tuple):  # the first that knows it
            return next((path for one in kind if "." in (path := found(one, name))), name)
        path = found(kind, name)
        if inspect.isclass(kind) and _is_unknown(path):
            elsewhere = sorted({one.rsplit(".", 1)[-1] for one in classes(kind)})
            known = sorted(offered(kind)) or elsewhere
            if not alike(name, known) and (other := alike(name, elsewhere)):
                known.append(other)  # such as one of Lightning's callbacks
            raise ValueError(f"there is no {kind.__name__} {name!r}; available: {', '.join(known)}")
        return path

    def found(kind: Any, name: str) -> str:
        path: str = resolve(kind, name)
        if "." not in path and inspect.isclass(kind):
            return offered(kind).get(path, path)
        return path

    classes: Callable[[type], list[str]] = function(TYPES, "get_all_subclass_paths", lambda kind: [])
    with replaced(TYPES, resolve_class_path_by_name=resolve_anew):
        yield


def place_of(name: str) -> str | None:
    """The class path of a class or function of the package, by its last part; None where there is none."""
    return next((f"lightning_adv2.{package}.{name}" for package in PACKAGES if name in exports(package)), None)


def offered(kind: type) -> dict[str, str]:
    """The class paths of the package's subclasses of ``kind``, and its functions that make one from settings alone.

    Args:
        kind: the class that is asked for.
    """
    return {
        name: f"lightning_adv2.{package}.{name}"
        for package in PACKAGES
        for name in exports(package)
        if _makes(getattr(import_module(f"lightning_adv2.{package}"), name), kind)
    }


def names() -> set[str]:
    """The names that the package exports."""
    return {name for package in PACKAGES for name in exports(package)}


def exports(package: str) -> list[str]:
    """The names that one of PACKAGES exports."""
    exported: list[str] = import_module(f"lightning_adv2.{package}").__all__
    return exported


def _makes(thing: Any, kind: type) -> bool:
    """Whether ``thing`` is a concrete subclass of ``kind``, or a function that makes one from settings alone.

    A function that changes an object, or makes one for another object, has an argument without a default.
    """
    if inspect.isclass(thing):
        return issubclass(thing, kind) and not inspect.isabstract(thing)
    if not inspect.isfunction(thing) or _needs_argument(thing):
        return False
    returned = get_type_hints(thing).get("return")
    return inspect.isclass(returned) and issubclass(returned, kind)


def _needs_argument(thing: Callable[..., Any]) -> bool:
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(thing).parameters.values()
    return any(one.default is inspect.Parameter.empty and one.kind not in variable for one in parameters)


def _is_unknown(path: str) -> bool:
    """Whether the path has no dot, or names something that the package does not have."""
    head, _, name = path.rpartition(".")
    package = head.removeprefix("lightning_adv2.")
    return not head or (package != head and package in PACKAGES and not hasattr(import_module(head), name))
