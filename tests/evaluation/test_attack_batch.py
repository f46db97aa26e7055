from __future__ import annotations

import numpy as np
import pytest
import torch
from lab import interpreter, short_attacks, test_batch, victim
from torch import Tensor
from toys import AlteredCAM

from lightning_adv2.attacks import Attack, GradientStep, PixelDelta, Ramp, Stage, TargetClass, adv2_attack, pgd
from lightning_adv2.attacks.attack import AttackRecipe
from lightning_adv2.attacks.perturbation import FlowField, is_grey
from lightning_adv2.attacks.targets import RandomClass, RandomPatch, Target, TargetRequest
from lightning_adv2.evaluation.attack_batch import Shared, attack_batch
from lightning_adv2.functional import optim
from lightning_adv2.functional.agreement import map_iou
from lightning_adv2.functional.patches import random_patch
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import CAM, Gradient, Interpreter
from lightning_adv2.models import Classifier, ResidualClassifier, weights_hash
from lightning_adv2.results import AttackRecord, BatchRecord
from lightning_adv2.results.records import to_float
from lightning_adv2.types import Batch, Interpretation

EPSILON = 0.031
NAMES = ["cam", "grad", "rts"]


def part(count: int, target: bool = True) -> Batch:
    whole = test_batch()
    batch: Batch = {k: v[:count] for k, v in whole.items()}  # type: ignore[assignment,index]
    if target:
        batch["target_class"] = (batch["label"] + 2) % 7
    return batch


def attacked(name: str = "cam", count: int = 10, **kwargs: object) -> BatchRecord:
    return attack_batch(victim(), interpreter(name), part(count), short_attacks(name), Shared(4, **kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_legal(name: str) -> None:
    record = attacked(name)
    benign = record.images.numpy().astype(np.int64)
    assert [attack.key for attack in record.attacks] == ["noise", "target_class", "pgd-fast", "adv2-fast"]
    for attack in record.attacks:
        assert attack.adv_images.dtype == torch.uint8
        difference = np.abs(attack.adv_images.numpy().astype(np.int64) - benign)
        # In whole numbers: 0.031 * 255 is 7.905, so seven levels and not eight.
        assert difference.max() <= int(np.floor(EPSILON * 255)) == 7
        assert difference.any() == (attack.key != "target_class")
        assert attack.valid.all()
        assert ((attack.adv_map >= 0) & (attack.adv_map <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_images_score_as_reported(name: str) -> None:
    record, classifier, explainer = attacked(name), victim(), interpreter(name)
    for attack in record.attacks:
        images = to_float(attack.adv_images)
        with torch.no_grad():
            probabilities = classifier(images).softmax(1)
        assert torch.equal(probabilities.argmax(1), attack.adv_predicted)
        confidence = probabilities.gather(1, record.target_class[:, None])[:, 0]
        assert torch.allclose(confidence, attack.confidence, atol=1e-6)
        asked = record.target_class if attack.key == "target_class" else attack.adv_predicted
        for shown, wanted in (
            (attack.adv_map, asked),
            (attack.adv_map_true_class, record.label),
            (attack.adv_map_target_class, record.target_class),
        ):
            assert torch.allclose(shown, explainer.explain(classifier, images, wanted).attribution_map, atol=1e-4)
        for maps, wanted in (
            (attack.adv_map_true_class, record.label),
            (attack.adv_map_target_class, record.target_class),
        ):
            assert torch.equal(maps[asked == wanted], attack.adv_map[asked == wanted])
    benign = explainer.explain(classifier, to_float(record.images), record.label).attribution_map
    assert torch.allclose(benign, record.benign_map, atol=1e-5)
    other = explainer.explain(classifier, to_float(record.images), record.target_class).attribution_map
    assert torch.allclose(other, record.benign_map_target_class, atol=1e-5)
    assert torch.equal(record.benign_map, record.target_map)


def test_the_attacks_do_something() -> None:
    record = attacked(count=20)
    by_key = {attack.key: attack for attack in record.attacks}
    asr = {key: float((a.adv_predicted == record.target_class).float().mean()) for key, a in by_key.items()}
    assert asr["pgd-fast"] > asr["noise"]
    iou = {key: float(map_iou(a.adv_map, record.target_map).mean()) for key, a in by_key.items()}
    assert iou["adv2-fast"] > iou["pgd-fast"]
    assert by_key["adv2-fast"].trace.keys() == {"confidence", "success", "l1", "iou"}
    n = len(record.image_id)
    assert all(curve.shape == (6, n) for curve in by_key["adv2-fast"].trace.values())
    assert all(attack.seconds >= 0 for attack in record.attacks)


def test_images_already_wrong_are_left_out_and_named() -> None:
    batch = part(12)
    batch["label"] = batch["label"].clone()
    with torch.no_grad():
        seen = victim()(batch["images"]).argmax(1)
    batch["label"][:] = seen
    batch["label"][[1, 7]] = (seen[[1, 7]] + 1) % 7
    record = attack_batch(victim(), interpreter("cam"), batch, [pgd(steps=1)])
    names = batch["image_id"]
    assert record.already_wrong == [names[1], names[7]]
    assert record.image_id == [name for name in names if name not in record.already_wrong]
    assert len(record.images) == len(record.label) == 10
    assert torch.equal(record.label, torch.cat([seen[:1], seen[2:7], seen[8:]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_any_right_image(name: str) -> None:
    batch = part(5)
    with torch.no_grad():
        batch["label"] = (victim()(batch["images"]).argmax(1) + 1) % 7
    record = attack_batch(victim(), interpreter(name), batch, short_attacks(name), Shared(1))
    assert record.already_wrong == batch["image_id"]
    assert record.image_id == []
    assert record.attacks == []
    assert record.images.shape == (0, 3, 32, 32)
    assert record.images.dtype == torch.uint8


def test_a_batch_without_target_class_draws_one_per_image() -> None:
    batch = part(12, target=False)
    first = attack_batch(victim(), interpreter("cam"), batch, [pgd(steps=1)], Shared(seed=1))
    assert (first.target_class != first.label).all()
    assert ((first.target_class >= 0) & (first.target_class < 7)).all()
    # The draw belongs to the image and the seed, not to the place in the batch.
    turned: Batch = {k: (v[::-1] if isinstance(v, list) else v.flip(0)) for k, v in batch.items()}  # type: ignore[assignment,attr-defined]
    other = attack_batch(victim(), interpreter("cam"), turned, [pgd(steps=1)], Shared(9, seed=1))
    assert dict(zip(first.image_id, first.target_class.tolist(), strict=True)) == dict(
        zip(other.image_id, other.target_class.tolist(), strict=True)
    )
    noise = {name: image for name, image in zip(other.image_id, other.attacks[0].adv_images, strict=True)}  # noqa: C416
    for name, image in zip(first.image_id, first.attacks[0].adv_images, strict=True):
        assert torch.equal(noise[name], image)
    reseeded = attack_batch(victim(), interpreter("cam"), batch, [pgd(steps=1)], Shared(seed=2))
    assert not torch.equal(first.target_class, reseeded.target_class)


def test_the_noise_has_the_size_of_the_attack() -> None:
    for epsilon, levels in ((2 / 255, 2), (0.1, 25)):
        attack = pgd(steps=1, epsilon=epsilon)
        assert isinstance(attack.perturbation, PixelDelta)
        record = attack_batch(victim(), interpreter("cam"), part(6), [attack])
        difference = (record.attacks[0].adv_images.int() - record.images.int()).abs()
        assert difference.max() == levels


@pytest.mark.parametrize("keep_grey", [True, False])
def test_the_noise_on_a_grey_image_is_grey_where_the_attack_is(keep_grey: bool) -> None:
    batch = part(8)
    batch["images"][::2] = batch["images"][::2, 1:2]
    with torch.no_grad():
        batch["label"] = victim()(batch["images"]).argmax(1)
    batch["target_class"] = (batch["label"] + 1) % 7
    attack = pgd(steps=2, keep_grey=keep_grey)
    record = attack_batch(victim(), interpreter("cam"), batch, [attack])
    for kept in (record.attacks[0], record.attacks[2]):
        changed = kept.adv_images.int() - record.images.int()
        assert is_grey(changed).flatten().tolist() == [keep_grey, False] * 4
        assert changed.flatten(1).any(1).all()


def test_progress_is_told() -> None:
    told: list[tuple[str, int]] = []
    attack_batch(
        victim(), interpreter("cam"), part(4), short_attacks(), on_step=lambda a, done: told.append((a.name, done))
    )
    assert told == [(name, step) for name in ("pgd", "adv2") for step in range(1, 7)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_in_the_victim(name: str) -> None:
    classifier, explainer, batch = victim(), interpreter(name), part(6)
    for parameter in classifier.parameters():
        parameter.requires_grad_(True)
    before = weights_hash(classifier), weights_hash(explainer), batch["images"].clone(), torch.get_rng_state()
    attack_batch(classifier, explainer, batch, short_attacks(name))
    assert weights_hash(classifier) == before[0]
    assert weights_hash(explainer) == before[1]
    assert torch.equal(batch["images"], before[2])
    assert not batch["images"].requires_grad
    assert torch.equal(torch.get_rng_state(), before[3])
    for module in (*classifier.modules(), *explainer.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())


def test_nan_in_the_network_is_invalid_and_not_robust() -> None:
    class Blind(type(victim())):  # type: ignore[misc]
        """Right on the benign image, NaN on any other."""

        benign = part(6)["images"]

        def forward_head(self, features: torch.Tensor) -> torch.Tensor:
            logits = super().forward_head(features)
            return torch.where(self.moved[:, None], torch.nan, logits) if len(self.moved) == len(logits) else logits

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            same = (images.detach()[:, None] - self.benign[None]).flatten(2).abs().amax(2).amin(1) < 1e-6
            self.moved = ~same
            return super().forward_features(images)

    classifier = Blind(num_classes=7, widths=(8, 12, 16), stem_stride=2)
    classifier.load_state_dict(victim().state_dict())
    record = attack_batch(classifier, interpreter("cam"), part(6), short_attacks())
    by_key = {attack.key: attack for attack in record.attacks}
    assert len(record.image_id) > 3
    assert by_key["target_class"].valid.all()
    assert not by_key["pgd-fast"].valid.any()
    assert not by_key["adv2-fast"].valid.any()


def test_promise_13_an_image_that_cannot_be_explained_is_named_and_not_attacked() -> None:
    classifier = ResidualClassifier(num_classes=4, widths=(8, 12, 16)).requires_grad_(False)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    label = classifier(images).argmax(1)
    images[1] = float("nan")
    batch = Batch(images=images, label=label, image_id=["a", "b", "c"])
    for explainer in (Gradient(), CAM()):
        record = attack_batch(classifier, explainer, batch, [pgd(steps=2)])
        assert (record.image_id, record.already_wrong) == (["a", "c"], [])
        assert record.invalid == {"b": "image not finite"}
        assert bool(record.attacks[-1].valid.all())


class Watched(CAM):
    """Remembers how many images it was asked to explain at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def explain(self, classifier: Classifier, images: Tensor, class_idx: Tensor) -> Interpretation:
        self.rows.append(len(images))
        return super().explain(classifier, images, class_idx)


def test_no_image_is_explained_twice_for_the_same_class() -> None:
    watched = Watched()
    record = attack_batch(victim(), watched, part(20), short_attacks())
    n, (noise, _, plain, adv2) = len(record.image_id), record.attacks

    def neither(attack: AttackRecord) -> list[int]:
        other = (attack.adv_predicted != record.label) & (attack.adv_predicted != record.target_class)
        return [int(other.sum())] if other.any() else []

    assert 0 < int((adv2.adv_predicted != record.target_class).sum()) < n, "the example must have both"
    assert neither(plain) or neither(adv2), "and a third class"
    # The benign images for c; then, where nothing is known, for c and c_t; benign ones for c_t; of the joint attack the
    # two candidates for c_t, and what it chose for c.
    watched_rows = [20, n, n, *neither(noise), n, n, n, *neither(plain), n, n, n, *neither(adv2)]
    assert watched.rows == watched_rows
    shown = CAM().explain(victim(), to_float(adv2.adv_images), adv2.adv_predicted).attribution_map
    assert torch.allclose(shown, adv2.adv_map, atol=1e-5)


def test_an_attack_without_a_map_runs_once_for_all_interpreters() -> None:
    told: list[str] = []

    def tell(attack: Attack, _: int) -> None:
        told.append(attack.name)

    shared = Shared()
    classifier, batch = victim(), part(10)
    records = []
    for name in NAMES:
        attacks = short_attacks(name)
        records.append(attack_batch(classifier, interpreter(name), batch, attacks, shared, tell))
    assert told.count("pgd") == 6
    assert told.count("adv2") == 18
    assert [record.interpreter for record in records] == NAMES
    for record, name in zip(records, NAMES, strict=True):
        alone = attacked(name)
        assert record.attacks[2].seconds == records[0].attacks[2].seconds > 0
        for one, other in zip(record.attacks, alone.attacks, strict=True):
            assert torch.equal(one.adv_images, other.adv_images)
            assert torch.equal(one.adv_map, other.adv_map)
            assert torch.equal(one.size, other.size)


def without_dark(shown: Tensor, images: Tensor, target_class: Tensor) -> Tensor:
    """No map of what is darker than the others."""
    dark = images.detach().mean((1, 2, 3)) < 0.45
    return torch.where(dark.view(-1, 1, 1, 1), torch.nan, shown)


def test_what_one_interpreter_cannot_explain_the_next_can() -> None:
    """In either order, and every image keeps its own result."""
    batch, pair = part(16), (CAM(), AlteredCAM(without_dark, "patchy"))
    for both in (pair, pair[::-1]):
        shared, found = Shared(), {}
        for one in both:
            found[one.name] = attack_batch(victim(), one, batch, [pgd(steps=3)], shared)
        full, less = found["cam"], found["patchy"]
        assert len(less.invalid) > 0
        assert 0 < len(less.image_id) < len(full.image_id)
        assert set(full.image_id) == set(less.image_id) | set(less.invalid)
        assert set(less.invalid.values()) == {"benign map not finite"}
        assert less.already_wrong == full.already_wrong, "wrong is wrong, whatever its map"
        index = [full.image_id.index(name) for name in less.image_id]
        assert torch.equal(less.attacks[2].adv_images, full.attacks[2].adv_images[index])
        assert torch.equal(less.attacks[2].size, full.attacks[2].size[index])


@pytest.mark.parametrize("name", NAMES)
def test_a_target_map_of_its_own(name: str) -> None:
    record = attacked(name, target=RandomPatch(), seed=3)
    size = tuple(record.benign_map.shape[-2:])
    patches = [random_patch(size, g) for g in image_generators(3, record.image_id, "target_map")]
    assert record.target == "patch"
    assert torch.equal(record.target_map, torch.stack(patches).view(record.target_map.shape))
    plain = attacked(name, seed=3)
    assert torch.equal(record.benign_map, plain.benign_map)
    assert plain.target == "benign"
    for key in (0, 1, 2):  # controls and PGD know nothing of it
        assert torch.equal(record.attacks[key].adv_images, plain.attacks[key].adv_images)
    assert not torch.equal(record.attacks[3].adv_images, plain.attacks[3].adv_images), "ADV2 does"


def test_other_images_follow_the_images_kept() -> None:
    batch = part(12)
    with torch.no_grad():
        batch["label"] = victim()(batch["images"]).argmax(1)
    batch["target_class"] = (batch["label"] + 2) % 7
    batch["other_images"] = batch["images"].flip(0)
    batch["other_label"] = (batch["target_class"] + 1) % 7
    batch["label"][[0, 5]] += 1
    batch["label"] %= 7
    record = attack_batch(victim(), CAM(), batch, [pgd(steps=1)], Shared(target=RandomClass()))
    keep = [i for i in range(12) if i not in (0, 5)]
    expected = CAM().explain(victim(), batch["other_images"][keep], batch["other_label"][keep]).attribution_map
    assert record.target == "class"
    assert torch.allclose(record.target_map, expected, atol=1e-6)


def test_promise_13_an_image_without_a_finite_target_map_is_named_and_not_attacked() -> None:
    class Holes(Target):
        name = "holes"

        def __call__(self, request: TargetRequest) -> Tensor:
            made = request.benign_map.clone()
            made[1, 0, 0, 0] = torch.nan
            return made

    whole = attacked()
    record = attacked(target=Holes())
    assert record.invalid == {whole.image_id[1]: "target map not finite"}
    assert record.image_id == [name for name in whole.image_id if name not in record.invalid]
    assert record.already_wrong == whole.already_wrong
    assert all(attack.valid.all() for attack in record.attacks)
    assert len(record.attacks[-1].adv_images) == len(record.image_id)


def test_the_size_of_a_perturbation_has_its_unit() -> None:
    step = GradientStep([TargetClass()], optim.adam(0.5, 0.5), Ramp(0.1, 0.1))
    flow = Attack("stadv", "fast", FlowField(start=0.1), [Stage(step, 2)])
    record = attacked(count=6)
    for attack in record.attacks:
        assert attack.unit == "Linf"
        moved = (attack.adv_images.int() - record.images.int()).abs().flatten(1).amax(1) / 255
        # 8-bit rounding towards the benign image takes less than a level.
        assert ((attack.size - moved >= -1e-6) & (attack.size - moved < 1 / 255)).all()
    assert (record.attacks[1].size == 0).all()
    spatial = attack_batch(victim(), CAM(), part(6), [flow])
    assert [attack.unit for attack in spatial.attacks] == ["Linf", "Linf", "px"]
    assert ((spatial.attacks[2].size > 0) & (spatial.attacks[2].size < (2 * 0.3**2) ** 0.5 + 1e-6)).all()
    assert torch.equal(spatial.attacks[0].adv_images, record.attacks[0].adv_images), "noise of 0.031 all the same"


def test_an_attack_fits_itself_to_the_interpreter() -> None:
    class Generic(AttackRecipe):
        name, schedule, needs_map = "adv2-generic", "fast", True

        def against(self, interpreter: Interpreter | None) -> Attack:
            assert interpreter is not None
            ready = adv2_attack(interpreter)
            stages = [Stage(stage.step, 3) for stage in ready.stages]
            return Attack(self.name, self.schedule, ready.perturbation, stages)

    for name in ("cam", "grad"):
        record = attack_batch(victim(), interpreter(name), part(6), [Generic()])
        assert record.attacks[-1].key == "adv2-generic-fast"
        assert record.attacks[-1].steps == 3


def test_promise_20_flags_of_an_attack_are_kept() -> None:
    """One small step in a wide ball cannot tell whether the victim is robust; fifty can."""
    weak, sound = pgd(steps=1, epsilon=0.2, name="weak"), pgd()
    record = attack_batch(victim(), interpreter("cam"), part(8), [weak, sound])
    found = {attack.attack: [flag.split(":")[0] for flag in attack.flags] for attack in record.attacks}
    assert found == {"noise": [], "target_class": [], "weak": ["unused_budget"], "pgd": []}
