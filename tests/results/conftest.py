"""Every test of this folder runs under the imported fixture."""

from lab import wandb_home

__all__ = ["wandb_home"]
