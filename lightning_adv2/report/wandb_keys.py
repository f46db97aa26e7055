"""W&B's key: whether there is one. It is never printed."""

from __future__ import annotations

import netrc
import os
from urllib.parse import urlsplit

from pytorch_lightning.utilities import rank_zero_warn


def has_key() -> bool:
    """Whether a key is set up: in the environment, or by ``wandb login`` in the user's netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    settings = wandb.setup().settings  # with the environment and W&B's settings files
    if settings.api_key:
        return True
    try:
        host = urlsplit(settings.base_url).netloc  # with the port, as W&B itself looks it up
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def warn(error: Exception, remedy: str) -> None:
    """Warn without telling secrets: a validation error repeats what was given."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if name.endswith(("_KEY", "_TOKEN")) and value.strip():
            text = text.replace(value.strip(), "***")
    rank_zero_warn(f"W&B does not work ({text}); {remedy}")
