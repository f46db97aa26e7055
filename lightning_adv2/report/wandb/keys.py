"""The key of W&B: whether one is set, and warnings that do not print it."""

from __future__ import annotations

import os

from pytorch_lightning.utilities import rank_zero_warn


def has_key() -> bool:
    """Whether a key is set: in the environment, or by ``wandb login`` in the user's netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    settings = wandb.setup().settings  # with the environment and W&B's settings files
    if settings.api_key:
        return True
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth  # knows the earlier host, too, and asks nobody

    try:
        return read_netrc_auth(host=settings.base_url) is not None
    except AuthenticationError:  # there is one, and W&B says what is wrong with it
        return True


def warn(error: Exception, remedy: str) -> None:
    """Warn of an error whose message may repeat a key: values of ``*_KEY`` and ``*_TOKEN`` variables become ``***``."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if name.endswith(("_KEY", "_TOKEN")) and value.strip():
            text = text.replace(value.strip(), "***")
    rank_zero_warn(f"W&B does not work ({text}); {remedy}")
