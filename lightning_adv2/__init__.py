"""Attack a classifier and its attribution map together (ADV2), measure it, and train the interpreters (RTS).

The one-line use::

    result = adv2(classifier, interpreter, images, target_class)
"""

TYPE_CHECKING = False  # not typing's, whose import takes as long as all before it
if TYPE_CHECKING:
    from typing import Any

    from lightning_adv2.attacks import adv2

    __version__: str

__all__ = ["adv2"]


def __getattr__(name: str) -> "Any":
    # On first use: the command line must hear signals before the milliseconds or seconds that these imports take.
    if name == "adv2":
        from lightning_adv2.attacks import adv2

        return adv2
    if name == "__version__":
        from importlib.metadata import version

        return version("lightning-adv2")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
