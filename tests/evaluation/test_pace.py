"""The time left, when a tenth of the run is over: by a simulated clock, and once by the real one."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from lab import attack_data, trainer, victim
from lab import test_batch as images
from pytorch_lightning.callbacks import RichProgressBar

from lightning_adv2.attacks import AcceleratedCopy, Attack, adv2_cam, adv2_grad, pgd
from lightning_adv2.evaluation import AttackEvaluation, progress
from lightning_adv2.evaluation.pace import Pace, parts_of
from lightning_adv2.evaluation.pilot import pilot
from lightning_adv2.evaluation.progress import StepProgress
from lightning_adv2.interpreters import CAM, IntegratedGradients
from lightning_adv2.modules import IDLS

LEFT = re.compile(r"(\d+):(\d\d):(\d\d) left")
FACTOR = 1.5


def left(words: list[str]) -> float:
    """The seconds that a line promises."""
    found = LEFT.search(", ".join(words))
    assert found is not None, words
    hours, minutes, seconds = map(int, found.groups())
    return 3600 * hours + 60 * minutes + seconds


class Clock:
    """Seconds that pass when it is told so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


LONG = Attack("long", "fast", pgd().perturbation, pgd(steps=100).stages, restarts=4)
WARM = Attack("warm", "fast", pgd().perturbation, [*pgd(steps=60).stages, *adv2_cam(steps=200).stages])
PLAN = {
    "cheap first": [("cam", pgd(steps=100), [0.2]), ("ig", WARM, [0.2, 20.0])],
    "dear first": [("ig", WARM, [0.2, 20.0]), ("grad", adv2_grad(steps=100), [2.0])],
    "restarts": [("cam", pgd(steps=100), [1.0]), ("cam", LONG, [5.0])],
}


@pytest.mark.parametrize("batches", [1, 3, 20])
@pytest.mark.parametrize("plan", PLAN.values(), ids=PLAN.keys())
def test_right_after_a_tenth(plan: Any, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attack's stages cost differently, and the controls and judgements between them take time, too."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    parts = [part for name, attack, _ in plan for part in parts_of(name, attack)]
    assert sum(part.steps for part in parts) == sum(attack.steps for _, attack, _ in plan)
    pace = Pace(batches)
    for name, attack, costs in plan:
        for part, cost in zip(parts_of(name, attack), costs, strict=False):
            pace.tried.add(part.name, 1.2 * cost, 1)  # not quite right
    said: list[tuple[float, float]] = []
    loop, begun = trainer(tmp_path), clock.now
    for _ in range(batches):
        with StepProgress(loop, parts, pace, 8, {}) as bar:
            clock.now += 5
            for name, attack, costs in plan:
                clock.now += 5
                stages = [cost for _ in range(attack.restarts) for stage, cost in zip(attack.stages, costs, strict=True)
                          for _ in range(stage.steps)]  # fmt: skip
                for done, cost in enumerate(stages, 1):
                    clock.now += cost
                    bar.update(name, attack, done)
                    said.append((clock.now, left(bar._describe(name, attack))))
                clock.now += 5
    whole = clock.now - begun
    for now, promised in said:
        if 0.1 <= (now - begun) / whole <= 0.9:
            right = begun + whole - now
            assert right / FACTOR < promised < right * FACTOR, (now - begun) / whole


def test_without_a_trial_what_is_unknown_costs_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, parts = Pace(1), parts_of("cam", pgd(steps=10)) + parts_of("cam", pgd(schedule="paper", steps=20))
    assert pace.left(parts) is None
    assert pace.new
    pace.measured.add(parts[0].name, 6.0, 3)
    assert pace.left(parts) == 60.0
    pace.tried.add(parts[0].name, 1.0, 1)
    pace.tried.add(parts[1].name, 1.0, 1)
    assert pace.left(parts) == 40.0, "what was measured counts first"
    assert pace.left([]) == 0.0


def test_the_pilot_tries_every_stage_and_leaves_no_trace() -> None:
    batch = {name: value[:4] for name, value in images().items()}
    network, interpreters = victim(), [CAM(), IntegratedGradients(steps=8)]
    plan = [(one, [pgd(steps=9).against(one), adv2_cam(steps=9).against(one)]) for one in interpreters]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = pilot(network, plan, batch, lambda one: AcceleratedCopy(network, one))
    for one, attacks in plan:
        for attack in attacks:
            assert all((found.per_step(part.name) or 0) > 0 for part in parts_of(one.name, attack))
    dear, cheap = (found.per_step(parts_of(one.name, attacks[1])[-1].name) or 0 for one, attacks in plan[::-1])
    assert dear > 2 * cheap, "eight gradients cost more than a CAM"
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_real_run_is_right_after_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch, whose last attack takes most of the time; other loads on the machine may disturb one try of three."""
    said: list[tuple[float, float]] = []
    original = StepProgress._describe

    def describe(self: StepProgress, *args: Any) -> list[str]:
        words = original(self, *args)
        # The line is rounded to seconds, so the time is taken where it is made.
        said.append((time.monotonic(), self._pace.left(self._left) or 0.0))
        assert LEFT.search(words[-1])
        return words

    monkeypatch.setattr(StepProgress, "_describe", describe)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    tries = []
    for attempt in range(3):
        said.clear()
        interpreters = [CAM(), IntegratedGradients(steps=16)]
        attacks = AttackEvaluation([pgd(steps=60), adv2_cam(steps=30)])
        loop = trainer(tmp_path / str(attempt), attacks, RichProgressBar(), enable_progress_bar=True)
        loop.test(IDLS(victim(), interpreters), attack_data(num_images=8, batch_size=8), verbose=False)
        begun, end = said[0][0], said[-1][0]
        now, promised = next(one for one in said if one[0] - begun >= 0.1 * (end - begun))
        tries.append(promised / (end - now))
        if 1 / FACTOR < tries[-1] < FACTOR:
            return
    pytest.fail(f"promised over real: {tries}")
