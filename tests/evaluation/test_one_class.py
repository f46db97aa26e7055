"""Both images explained for one class: the map's reaction to the attack, apart from that to the class asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lab import test_batch, victim
from torch import Tensor
from toys import AlteredCAM

from lightning_adv2.attacks import adv2_cam, pgd
from lightning_adv2.evaluation import attack_batch
from lightning_adv2.interpreters import Interpreter
from lightning_adv2.metrics import METRICS
from lightning_adv2.models import Classifier
from lightning_adv2.results import BatchRecord, summarize
from lightning_adv2.results.records import record_key, to_float
from lightning_adv2.results.summary import Row, Summary
from lightning_adv2.types import Batch, Interpretation


class ByClass(Interpreter):
    """A map for each class, whatever the image."""

    name = "byclass"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("maps", torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)))

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        nothing = 0 * images.sum((1, 2, 3)).view(-1, 1, 1, 1)  # a graph to the image
        return Interpretation(classifier(images), self.maps[class_idx] + nothing)


class ByImage(Interpreter):
    """The brightness of the image, whatever the class."""

    name = "byimage"

    def forward(self, classifier: Classifier, images: Tensor, class_idx: Tensor, state: Any = ()) -> Interpretation:
        return Interpretation(classifier(images), F.avg_pool2d(images.mean(1, keepdim=True), 2))


def without(blind: int, known: Tensor | None) -> AlteredCAM:
    """Cannot explain one class in images other than those it knows, or in any where it knows none."""

    def alter(shown: Tensor, images: Tensor, target_class: Tensor) -> Tensor:
        hidden = target_class == blind
        if known is not None:
            hidden &= (images.detach()[:, None] != known[None]).flatten(2).any(2).all(1)
        return torch.where(hidden.view(-1, 1, 1, 1), torch.nan, shown)

    return AlteredCAM(alter)


def right(*classes: int) -> Batch:
    """Images that the victim puts into these classes, which are made their labels; the target is two classes on."""
    whole, classifier = test_batch(), victim()
    with torch.no_grad():
        label = classifier(whole["images"]).argmax(1)
    keep = [i for i, one in enumerate(label.tolist()) if one in classes]
    names = [whole["image_id"][i] for i in keep]
    return Batch(images=whole["images"][keep], label=label[keep], image_id=names, target_class=(label[keep] + 2) % 7)


def attacked(explainer: Interpreter, batch: Batch) -> tuple[BatchRecord, Summary]:
    record = attack_batch(victim(), explainer, batch, [pgd(steps=30), adv2_cam(steps=30)])
    return record, summarize([record], {"dataset": "shapes", "classifier": "tiny"})


def by_attack(summary: Summary) -> dict[str, Row]:
    return {row["attack"]: row for row in summary.rows}


def test_a_map_that_follows_the_class_asked_for_does_not_react_to_the_attack() -> None:
    explainer = ByClass().eval()
    record, summary = attacked(explainer, right(*range(7)))
    rows, inside = by_attack(summary), explainer.maps.numpy() >= 0.5
    for attack in record.attacks:
        row = rows[attack.attack]
        assert (row["l1_true_class"], row["iou_true_class"]) == (0, 1), attack.key
        assert (row["l1_target_class"], row["iou_target_class"]) == (0, 1), attack.key
        with torch.no_grad():
            predicted = victim()(to_float(attack.adv_images)).argmax(1)
        asked = record.target_class if attack.attack == "target_class" else predicted
        pairs = [(inside[c], inside[k]) for c, k in zip(record.label, asked, strict=True)]
        assert row["iou"] == pytest.approx(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))
    for name in ("pgd", "adv2"):
        assert rows[name]["asr"] > 0.5
        assert rows[name]["iou"] < 0.8, "by the old figure it reacts to the attack"


def test_a_map_that_follows_the_image_reacts_to_the_attack_alone() -> None:
    record, summary = attacked(ByImage(), right(*range(7)))
    rows = by_attack(summary)
    for row in rows.values():
        assert row["iou_true_class"] == row["iou_target_class"] == row["iou"]
        assert row["l1_true_class"] == row["l1_target_class"] == row["l1"]
    assert torch.equal(record.benign_map_target_class, record.benign_map)
    assert (rows["target_class"]["iou"], rows["target_class"]["l1"]) == (1, 0)
    assert rows["pgd"]["iou"] < 1
    assert rows["pgd"]["l1"] > 1e-4


@pytest.mark.parametrize(("blind", "everywhere"), [(0, False), (2, False), (2, True)], ids=["c", "c_t", "benign"])
def test_promise_13_a_map_for_one_class_that_is_not_finite_leaves_the_image_out(blind: int, everywhere: bool) -> None:
    """Of every mean, so that all figures of a row are over the same images."""
    batch = right(0, 1)  # with the targets 2 and 3
    record, summary = attacked(without(blind, None if everywhere else batch["images"]), batch)
    assert record.image_id == batch["image_id"]
    touched = (record.label == blind) | (record.target_class == blind)
    assert 0 < int(touched.sum()) < len(touched)
    for attack in record.attacks:
        known = attack.attack == "target_class" and not everywhere
        wanted = ~touched & (attack.adv_predicted != blind) if not known else torch.ones_like(touched)
        assert torch.equal(attack.valid, wanted), attack.key
    noise = record.attacks[0]
    reported = noise.adv_map.isfinite().flatten(1).all(1)
    assert bool((reported & ~noise.valid).any()) == (blind != 0), "left out for the target class's map alone"
    for row in summary.rows:
        count = summary.denominators["attacks"][record_key(row["attack"], row["schedule"])]
        assert count["n"] + count["invalid"] == len(touched)
        assert count["n"] > 0
        assert all(np.isfinite(row[name]) for name in METRICS)
