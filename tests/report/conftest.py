"""Every test of this folder runs under the imported fixture."""

from callbacks.lab import wandb_home

__all__ = ["wandb_home"]
