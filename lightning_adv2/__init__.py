"""Attack a classifier and its attribution map together (ADV2), measure it, and train the interpreters (RTS).

The one-line use::

    result = adv2(classifier, interpreter, images, target_class)
"""

from importlib.metadata import version

from lightning_adv2.attacks import adv2

__version__ = version("lightning-adv2")
__all__ = ["adv2"]
