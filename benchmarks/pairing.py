"""Times in pairs: every round times all candidates in turn, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.progress import track

Call = Callable[[], "float | object"]
"""What is timed; it may return the seconds itself, where only a part of it counts."""
Row = dict[str, Any]


def seconds(call: Call, device: torch.device) -> float:
    """Wall-clock seconds of one call, until the device is done."""
    start = now(device)
    own = call()
    taken = now(device) - start
    return own if isinstance(own, float) else taken


def now(device: torch.device) -> float:
    """Seconds of a clock, when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def paired(
    case: str,
    calls: Mapping[str, tuple[Call, str]],
    units: int,
    rounds: int,
    device: torch.device,
) -> list[Row]:
    """A row per candidate: its median time, and the median, smallest and largest of its paired ratios to its floor.

    Args:
        case: for the rows.
        calls: by name what to time, and the name of the candidate that is its floor.
        units: what one call does, images times steps say; times are per unit.
        rounds: how often; one round more is thrown away.
        device: where.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in track(range(rounds + 1), description=case):
        for name, (call, _) in calls.items():
            taken = seconds(call, device)
            if round_:
                times[name].append(taken)
    rows = []
    for name, (_, floor) in calls.items():
        ratios = [own / least for own, least in zip(times[name], times[floor], strict=True)]
        rows.append({
            "case": case, "what": name, "floor": floor, "ms": statistics.median(times[name]) / units * 1000,
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        })  # fmt: skip
    return rows
