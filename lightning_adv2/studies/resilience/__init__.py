"""Resilience beside benign map quality: a resilience counts only where the benign maps are worth the reference's."""

from lightning_adv2.studies.resilience.study import ResilienceReport

__all__ = ["ResilienceReport"]
