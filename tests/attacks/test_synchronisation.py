"""The loop never waits for the device: nothing in a step asks for a tensor's value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import ATTACKS
from torch.utils._python_dispatch import TorchDispatchMode

from attacks.setting import Setting
from lightning_adv2.attacks import EarlyStopping

# Each needs the value, or the number of elements that depends on it, before the next line can run.
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}
# Its steps know by a counter on the device when a fresh map is due; each of them is dozens of passes long.
COUNTING = {"mask"}


@contextmanager
def waits() -> Iterator[list[str]]:
    """Names of the operations that wait, in order."""
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in WAITING:
                seen.append(str(func))
            if func is torch.ops.aten.index.Tensor and any(
                one is not None and one.dtype == torch.bool for one in args[1]
            ):
                seen.append("boolean index")
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen


def test_the_watch_sees_what_waits():
    x = torch.rand(3)
    for waiting in (
        lambda: float(x[0]),
        lambda: bool(x.any()),
        lambda: x[x > 0],
        lambda: x.nonzero(),
    ):
        with waits() as seen:
            waiting()
        assert seen


def count(case, steps: int, stop: EarlyStopping | None = None) -> int:
    setting, attack = Setting(case), case.short(steps)
    attack.stop = stop
    with waits() as seen:
        setting.run(attack)
    return len(seen)


@pytest.mark.parametrize("case", [c for c in ATTACKS if c.interpreter not in COUNTING], ids=lambda case: case.name)
def test_twice_the_steps_wait_no_more_often(case):
    assert count(case, 8) == count(case, 4)


@pytest.mark.parametrize("case", [c for c in ATTACKS if c.name in ("pgd-fast", "adv2_cam-fast")], ids=lambda c: c.name)
def test_with_a_plateau_it_looks_every_ten_steps(case):
    never = EarlyStopping(patience=1000, every=10)
    looks = count(case, 40, never) - count(case, 20, never)
    assert 0 < looks <= 2 * 2
