from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import lattice_images, other_class, small_classifier, small_vit
from torch import Tensor, nn

from lightning_adv2.attacks import Pixels, adv2_cam, pgd, run_attack
from lightning_adv2.interpreters import Attention
from lightning_adv2.models import ViTClassifier

TARGET = torch.tensor([0, 1, 2])
SIDE = 32  # patches of 8 x 8


def captured(classifier: ViTClassifier, images: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Logits, and per block input, output and attention of the layer, seen by hooks on torchvision's own network."""
    seen: list[dict[str, Tensor]] = []

    def show(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> tuple[object, object]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        seen.append({"input": args[0], "output": output[0], "attention": output[1].detach()})

    handles = []
    for block in classifier.network.encoder.layers:
        handles.append(block.self_attention.register_forward_pre_hook(show, with_kwargs=True))
        handles.append(block.self_attention.register_forward_hook(keep))
    logits = classifier.network(classifier.normalize(images))
    for handle in handles:
        handle.remove()
    return logits, seen


def scaled(rows: np.ndarray) -> np.ndarray:
    """The class token's row without itself, as a map from 0 to 1."""
    maps = rows[:, 1:].reshape(-1, 1, 4, 4)
    low, high = maps.min((1, 2, 3), keepdims=True), maps.max((1, 2, 3), keepdims=True)
    return (maps - low) / (high - low)


def test_rollout_is_the_product_of_the_blocks():
    classifier, images = small_vit(dtype=torch.float64, side=SIDE), lattice_images(3, side=SIDE, dtype=torch.float64)
    _, seen = captured(classifier, images)
    rows = []
    for i in range(3):
        product = np.eye(17)
        for block in seen:
            augmented = 0.5 * block["attention"][i].numpy().mean(0) + 0.5 * np.eye(17)
            product = augmented / augmented.sum(-1, keepdims=True) @ product
        rows.append(product[0])
    ours = Attention("rollout").explain(classifier, images, TARGET).attribution_map
    np.testing.assert_allclose(ours.numpy(), scaled(np.stack(rows)), rtol=1e-8, atol=1e-10)


def test_rollout_is_the_same_for_every_class():
    classifier, images = small_vit(side=SIDE), lattice_images(3, side=SIDE)
    first, second = (Attention("rollout").explain(classifier, images, t).attribution_map for t in (TARGET, TARGET + 1))
    assert torch.equal(first, second)


def test_the_gradient_weighted_map_is_the_papers():
    """dz/dA by hand: the layer's output is W sum_j A[i, j] v[j] per head, so dz/dA[i, j] = (W^T dz/dy[i]) . v[j]."""
    classifier, images = small_vit(dtype=torch.float64, side=SIDE), lattice_images(3, side=SIDE, dtype=torch.float64)
    logits, seen = captured(classifier, images)
    rows = []
    for i, c in enumerate(TARGET.tolist()):
        relevance = np.eye(17)
        upstream = torch.autograd.grad(logits[i, c], [block["output"] for block in seen], retain_graph=True)
        for block, layer, above in zip(seen, classifier.network.encoder.layers, upstream, strict=True):
            mha = layer.self_attention
            value = block["input"][i] @ mha.in_proj_weight[32:].T + mha.in_proj_bias[32:]
            mixed = above[i] @ mha.out_proj.weight
            attention, weighted = block["attention"][i].numpy(), np.zeros((17, 17))
            for head in range(2):
                part = slice(8 * head, 8 * head + 8)
                slope = (mixed[:, part] @ value[:, part].T).detach().numpy()
                weighted += np.maximum(slope * attention[head], 0) / 2
            relevance = relevance + weighted @ relevance
        rows.append(relevance[0])
    ours = Attention().explain(classifier, images, TARGET).attribution_map
    np.testing.assert_allclose(ours.numpy(), scaled(np.stack(rows)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rule", ["gradient", "rollout"])
def test_the_maps_gradient_matches_finite_differences(rule):
    classifier, images = small_vit(dtype=torch.float64, side=SIDE), lattice_images(3, side=SIDE, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 1, 4, 4, generator=generator).double()

    def value(x: Tensor) -> Tensor:
        return (Attention(rule)(classifier, x, TARGET).attribution_map * weight).sum((1, 2, 3))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3
    step, close = 1e-6, []
    for _ in range(10):
        direction = torch.randn(images.shape, generator=generator).double()
        numerical = (value(images + step * direction) - value(images - step * direction)).detach() / (2 * step)
        analytical = (gradient * direction).flatten(1).sum(1)
        close.append(torch.isclose(numerical, analytical, rtol=1e-4, atol=1e-5))
    assert torch.stack(close).double().mean() >= 0.95


def test_the_joint_attack_moves_the_map_towards_its_target():
    classifier, images = small_vit(), lattice_images(8)
    target_class = other_class(classifier, images)
    target_map = Attention().explain(classifier, images, classifier(images).argmax(1)).attribution_map
    joint, alone = (
        run_attack(attack, classifier, Attention(), images, target_class, target_map)
        for attack in (adv2_cam(threat_model=Pixels(0.1)), pgd(epsilon=0.1))
    )
    assert joint.valid.all()
    assert joint.success.double().mean() >= 0.75
    assert joint.score.mean() < alone.score.mean()


def test_a_classifier_without_attention_is_refused():
    with pytest.raises(TypeError, match=r"ResidualClassifier has no forward_attention.*ViTClassifier"):
        Attention().explain(small_classifier(), lattice_images(3), TARGET)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"rule='flow'.*gradient, rollout"):
        Attention("flow")


def test_promise_23_inference_mode_gives_a_clear_error():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*inference_mode=False"):
        Attention()(small_vit(), lattice_images(3), TARGET)
    with torch.inference_mode():
        Attention("rollout").explain(small_vit(), lattice_images(3), TARGET)
