"""NaN and infinity, and maps that say nothing, never count as robust."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import attack_data, interpreter, short_attacks, test_batch, trainer, victim
from report.runs import history, reports
from torch import Tensor
from toys import AlteredCAM

from lightning_adv2.attacks.targets import Target, TargetRequest
from lightning_adv2.evaluation import AttackEvaluation, attack_batch
from lightning_adv2.interpreters import CAM
from lightning_adv2.models import ResidualClassifier
from lightning_adv2.modules import IDLS
from lightning_adv2.report import wandb_logger
from lightning_adv2.results.summary import check_invalid
from lightning_adv2.results.tables import summarize
from lightning_adv2.types import Batch

NAMES = {"dataset": "shapes", "classifier": "tiny"}


def part(count: int) -> Batch:
    """Images that the victim gets right, all of them."""
    whole, classifier = test_batch(), victim()
    with torch.no_grad():
        right = (classifier(whole["images"]).argmax(1) == whole["label"]).nonzero()[:count, 0]
    batch = Batch(
        images=whole["images"][right],
        label=whole["label"][right],
        image_id=[whole["image_id"][i] for i in right.tolist()],
    )
    batch["target_class"] = (batch["label"] + 2) % 7
    return batch


def marked(value: float | None) -> AlteredCAM:
    """Gives ``value`` as the map of images whose first pixel is black, or that map over again where it is None."""

    def alter(shown: Tensor, images: Tensor, target_class: Tensor) -> Tensor:
        black = (images.detach()[:, :, 0, 0] == 0).all(1).view(-1, 1, 1, 1)
        return shown if value is None else torch.where(black, value, shown)

    return AlteredCAM(alter)


def black_corner(batch: Batch, *places: int) -> None:
    batch["images"] = batch["images"].clone()
    for place in places:
        batch["images"][place, :, 0, 0] = 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "benign map not finite"),
        (float("inf"), "benign map not finite"),
        (0.0, "constant benign map"),
        (1.0, "constant benign map"),
        (0.25, "constant benign map"),
    ],
)
def test_promise_13_a_map_that_says_nothing(value: float, reason: str) -> None:
    batch = part(6)
    black_corner(batch, 1, 4)
    expected = attack_batch(victim(), marked(None), batch, short_attacks())
    assert len(expected.image_id) == 6
    record = attack_batch(victim(), marked(value), batch, short_attacks())
    named = [batch["image_id"][i] for i in (1, 4)]
    assert record.invalid == dict.fromkeys(named, reason)
    assert record.image_id == [name for name in batch["image_id"] if name not in named]
    # The others come out as if nothing had been (in single precision, with other neighbours).
    keep = [0, 2, 3, 5]
    for one, other in zip(record.attacks, expected.attacks, strict=True):
        assert one.valid.all()
        assert torch.equal(one.adv_predicted, other.adv_predicted[keep])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_promise_13_an_image_that_is_no_image(value: float) -> None:
    batch = part(6)
    batch["images"] = batch["images"].clone()
    batch["images"][2, 1, 5, 6] = value
    for name in ("cam", "grad", "rts"):
        record = attack_batch(victim(), interpreter(name), batch, short_attacks(name))
        assert record.invalid == {batch["image_id"][2]: "image not finite"}
        assert len(record.image_id) == 5
        assert all(attack.valid.all() for attack in record.attacks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_promise_13_logits_that_are_no_logits(value: float) -> None:
    """Class 0 included, which argmax makes of NaN."""

    class Blind(ResidualClassifier):
        def forward_features(self, images: Tensor) -> Tensor:
            self.marked = (images.detach()[:, :, 0, 0] == 0).all(1)
            return super().forward_features(images)

        def forward_head(self, features: Tensor) -> Tensor:
            return torch.where(self.marked[:, None], value, super().forward_head(features))

    classifier = Blind(num_classes=7, widths=(8, 12, 16), stem_stride=2)
    classifier.load_state_dict(victim().state_dict())
    batch = part(6)
    black_corner(batch, *range(6))
    batch["images"][5, :, 0, 0] = 0.5
    batch["label"][0] = 0
    record = attack_batch(classifier.eval(), CAM(), batch, short_attacks())
    assert record.invalid == dict.fromkeys(batch["image_id"][:5], "logits not finite")
    assert record.already_wrong == []
    assert record.image_id == batch["image_id"][5:]


class Brittle(ResidualClassifier):
    """As the victim on 8-bit images that ``known`` has; on others its logits are minus infinity for all but the label,
    or its gradient is NaN. Either freezes an attack, so that the image would look robust.
    """

    kind = "gradient"

    def forward_head(self, features: Tensor) -> Tensor:
        logits = super().forward_head(features)
        if self.kind == "gradient":  # a finite value with a gradient of 0 times infinity
            return logits + (logits * 0).square().sum(1, keepdim=True).sqrt()
        moved = ~(self.seen[:, None] == self.known[None]).flatten(2).all(2).any(1)
        hidden = torch.full_like(logits, -torch.inf).scatter(1, logits.argmax(1, keepdim=True), 1.0)
        return torch.where(moved[:, None], hidden, logits)

    def forward_features(self, images: Tensor) -> Tensor:
        self.seen = images.detach()
        return super().forward_features(images)


@pytest.mark.parametrize("kind", ["gradient", "logits"])
@pytest.mark.parametrize("name", ["cam", "grad"])
def test_promise_13_a_frozen_attack_is_no_robustness(kind: str, name: str) -> None:
    batch = part(4)
    classifier = Brittle(num_classes=7, widths=(8, 12, 16), stem_stride=2).requires_grad_(False).eval()
    classifier.load_state_dict(victim().state_dict())
    classifier.kind, classifier.known = kind, batch["images"]
    record = attack_batch(classifier, interpreter(name), batch, short_attacks(name))
    judged = {attack.key: attack.valid for attack in record.attacks if attack.schedule != "control"}
    assert len(record.image_id) > 0 or name == "grad", "GRAD's own map is made of that gradient"
    for valid in judged.values():
        assert not valid.any()
    summary = summarize([record], NAMES)
    assert all(row["asr"] is None for row in summary.rows if row["schedule"] != "control"), "not 0%, which is robust"
    with pytest.raises(RuntimeError, match="max_invalid"):
        check_invalid(summary, 0.9)


class Holes(Target):
    """No target for the first image of each batch."""

    name = "holes"

    def __call__(self, request: TargetRequest) -> Tensor:
        made = request.benign_map.clone()
        made[0] = torch.inf
        return made


def run(folder: Path, module: IDLS, logger: Any = False, **kwargs: Any) -> dict[str, Any]:
    loop = trainer(folder, AttackEvaluation(short_attacks(), **kwargs), logger=logger)
    loop.test(module, attack_data(num_images=12), verbose=False)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def test_promise_13_a_run_says_what_is_invalid_and_fails_when_it_is_too_much(tmp_path: Path) -> None:
    module = IDLS(victim(), CAM())
    found = run(tmp_path / "lenient", module, target=Holes(), max_invalid=0.25)
    counts = found["denominators"]
    assert counts["invalid"] == 3, "one in each of three batches"
    assert counts["reasons"] == {"target map not finite": 3}
    assert counts["selected"] == 9
    assert counts["already_wrong"] + counts["skipped"] + counts["invalid"] + 9 == counts["considered"]
    assert {row["n"] for row in found["rows"]} == {9}
    with (tmp_path / "lenient" / "status.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == counts["considered"]
    assert [row["reason"] for row in rows if row["status"] == "invalid"] == ["target map not finite"] * 3
    logger = wandb_logger(tmp_path / "strict")
    with pytest.raises(RuntimeError, match=r"max_invalid=0\.2: .*cam, noise: 3 of 12 \(target map not finite 3"):
        run(tmp_path / "strict", module, logger, target=Holes(), max_invalid=0.2)
    assert logger.close()
    assert len(reports(history(tmp_path / "strict"))) == 1, "logged before it failed"
    for name in ("results.json", "results.csv", "images.csv", "status.csv"):
        strict, lenient = ((tmp_path / run / name).read_bytes() for run in ("strict", "lenient"))
        assert strict == lenient, "written before it failed"


def test_promise_13_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """Spoilt after loading, which refuses them: nothing is attacked, nothing is reported as robust."""
    classifier = victim()
    with torch.no_grad():
        classifier.linear.weight[3, 0] = torch.nan
    with pytest.raises(RuntimeError, match=r"0 wrong, 0 unreadable, 35 with NaN or infinity"):
        run(tmp_path, IDLS(classifier, CAM()))
    record = attack_batch(classifier, CAM(), part(6), short_attacks())
    assert set(record.invalid.values()) == {"logits not finite"}
    assert record.attacks == []
    with pytest.raises(RuntimeError, match=r"cam, no attack: 6 of 6 \(logits not finite 6"):
        check_invalid(summarize([record], NAMES), 0.99)
