from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
import torchvision
from cases import SIDE, lattice_images, randomize_, small_classifier
from torch import Tensor, nn
from zennit import composites
from zennit.attribution import Gradient as ZennitGradient
from zennit.torchvision import ResNetCanonizer

from lightning_adv2.interpreters import LRP, lrp
from lightning_adv2.interpreters.lrp import Rules
from lightning_adv2.interpreters.relevance_view import relevance_view
from lightning_adv2.models import Classifier, PaperReLU, Softplus, Surrogate, TorchvisionClassifier, weights_hash

RULES = get_args(Rules)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TARGET = torch.tensor([0, 1, 2, 3])
CALL, GETATTR = nn.Module.__call__, nn.Module.__getattr__
every_rule = pytest.mark.parametrize("rules", RULES)


def without_biases() -> Classifier:
    """A residual network in which nothing is added to what the image brings in."""
    classifier = small_classifier(dtype=torch.float64)
    with torch.no_grad():
        for m in classifier.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.bias.zero_()
                m.running_mean.zero_()
        classifier.linear.bias.zero_()
    return classifier


def seeded_torchvision(name: str) -> tuple[TorchvisionClassifier, nn.Module]:
    """Our classifier and torchvision's network with the same random weights, in double precision."""
    networks = []
    for build in (
        lambda: TorchvisionClassifier(name, num_classes=6, mean=MEAN, std=STD),
        lambda: torchvision.models.get_model(name, weights=None, num_classes=6),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build()
        randomize_(network, torch.Generator().manual_seed(1))
        networks.append(network.double().eval())
    return networks[0], networks[1]


def test_in_a_network_without_biases_epsilon_is_the_image_times_its_gradient():
    """Bach et al. 2015 in closed form: with epsilon towards 0 each layer hands on input times gradient."""
    classifier, images = without_biases(), lattice_images(4, dtype=torch.float64)
    leaf = classifier.normalize(images).requires_grad_()
    x = leaf
    for stage in classifier.stages():
        x = stage(x)
    (gradient,) = torch.autograd.grad(classifier.forward_head(x).gather(1, TARGET[:, None]).sum(), leaf)
    ours = LRP("epsilon", epsilon=1e-12).relevance(classifier, images, TARGET)
    scale = (leaf * gradient).abs().max().item()
    assert scale > 0.1
    # Sums and averages keep zennit's stabiliser of 1e-6.
    torch.testing.assert_close(ours, (leaf * gradient).detach(), rtol=0, atol=1e-3 * scale)


@every_rule
def test_relevance_is_conserved_without_biases(rules):
    classifier, images = without_biases(), lattice_images(4, dtype=torch.float64)
    total = LRP(rules).relevance(classifier, images, TARGET).sum((1, 2, 3))
    score = classifier(images).gather(1, TARGET[:, None])[:, 0].detach()
    assert score.abs().min() > 0.01
    torch.testing.assert_close(total, score, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "canonizer", "rules"),
    [
        ("resnet18", ResNetCanonizer, "epsilon_plus_flat"),
        ("resnet18", ResNetCanonizer, "epsilon_gamma_box"),
        ("squeezenet1_0", None, "epsilon_plus_flat"),
        ("squeezenet1_0", None, "epsilon_plus"),
        ("squeezenet1_0", None, "epsilon_alpha2_beta1"),
    ],
)
def test_the_relevance_is_zennits_own(name, canonizer, rules):
    ours, theirs = seeded_torchvision(name)
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):  # its canonizer leaves BatchNorm's eps behind: let there be none
            m.running_var += m.eps
            m.eps = 0.0
    images = lattice_images(2, side=32, dtype=torch.float64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).double() for v in (MEAN, STD))
    options = {"low": (0 - mean) / std, "high": (1 - mean) / std} if "box" in rules else {}
    composite = composites.COMPOSITES[rules](canonizers=[canonizer()] if canonizer else [], **options)
    one_hot = F.one_hot(TARGET[1:3], 6).double()
    with ZennitGradient(theirs, composite) as attributor:
        _, expected = attributor(((images - mean) / std).requires_grad_(), lambda logits: logits * one_hot)
    relevance = LRP(rules).relevance(ours, images, TARGET[1:3])
    torch.testing.assert_close(relevance, expected.detach(), rtol=1e-6, atol=1e-7 * expected.abs().max().item())
    pooled = F.avg_pool2d(expected.detach().sum(1, keepdim=True).abs(), 4)
    low, high = pooled.amin((1, 2, 3), keepdim=True), pooled.amax((1, 2, 3), keepdim=True)
    result = LRP(rules, pool=4).explain(ours, images, TARGET[1:3])
    torch.testing.assert_close(result.attribution_map, (pooled - low) / (high - low), rtol=1e-5, atol=1e-7)


# A surrogate's ReLU is not zero where a sum is, which makes relevance steep (zennit's stabiliser is 1e-6), not wrong.
SHARP = Softplus(50.0, relative=False)
SURROGATES = [(RULES[0], PaperReLU(relative=False)), (RULES[0], SHARP), (RULES[-1], SHARP)]


@pytest.mark.parametrize(("rules", "surrogate"), [*((rules, None) for rules in RULES), *SURROGATES])
def test_the_maps_gradient_is_right_for_every_rule(rules, surrogate):
    assert agreement(LRP(rules, pool=2), small_classifier(dtype=torch.float64), SIDE, surrogate) >= 0.95


def test_the_maps_gradient_is_right_on_a_torchvision_network():
    assert agreement(LRP(), seeded_torchvision("resnet18")[0], 32, None, directions=2) == 1


def agreement(
    interpreter: LRP, classifier: Classifier, side: int, surrogate: Surrogate | None, directions: int = 10
) -> float:
    """The share of directions in which the map's gradient is its central difference, to 1e-3."""
    images, generator = lattice_images(2, seed=3, side=side, dtype=torch.float64), torch.Generator().manual_seed(4)
    weight = torch.randn(1, 1, side // 2, side // 2, generator=generator).double()

    def value(x: Tensor) -> Tensor:
        with surrogate or nullcontext():
            return (interpreter(classifier, x, TARGET[:2]).attribution_map * weight).sum((1, 2, 3))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3
    step, close = 1e-8, []
    for _ in range(directions):
        direction = torch.randn(images.shape, generator=generator).double()
        numerical = (value(images + step * direction) - value(images - step * direction)).detach() / (2 * step)
        analytical, scale = (gradient * direction).flatten(1).sum(1), gradient.flatten(1).norm(dim=1)
        close.append((numerical - analytical).abs() <= 1e-3 * (analytical.abs() + scale))
    return torch.stack(close).double().mean().item()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_0", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_the_view_computes_the_same_logits(name):
    classifier, _ = seeded_torchvision(name)
    images = lattice_images(1, side=64, dtype=torch.float64)
    torch.testing.assert_close(relevance_view(classifier)(classifier.normalize(images)), classifier(images))


@pytest.mark.parametrize(("name", "what"), [("mobilenet_v3_small", "Hardswish"), ("efficientnet_b0", "S")])
def test_a_layer_without_a_rule_is_named(name, what):
    with pytest.raises(TypeError, match=rf"no rule for '{what}.*{name}.*another interpreter"):
        LRP().explain(TorchvisionClassifier(name, num_classes=4), lattice_images(1, side=64), TARGET[:1])


class Functional(Classifier):
    """The same sum of two branches and the same average, written in every way that has a rule, or one that has none."""

    def __init__(self, how: str) -> None:
        super().__init__(MEAN, STD)
        self.num_classes, self.how = 4, how
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.linear, self.relu = nn.Linear(8, 4), nn.ReLU(inplace=True)
        self.double().eval()

    def stages(self):
        return [self.features]

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x).relu(), 2)
        y = self.second(x)
        if self.how == "scaled":
            return torch.add(x, y, alpha=2)
        if self.how == "product":
            return x * y
        if self.how == "branch":
            return x if x.sum() > 0 else y
        if self.how == "in place":
            y += x
            return torch.relu(y)
        if self.how == "statements":
            y.add_(x)
            F.relu_(y)
            return y
        if self.how == "modules":
            y.add_(x)
            self.relu(y)
            return y
        if self.how == "out":
            total = torch.empty(0).double()
            torch.add(x, y, out=total)
            return F.relu(total)
        if self.how == "under another name":
            same = y
            same += x
            return F.relu(y)
        if self.how == "through a view":
            y.view(-1).add_(x.reshape(-1))
            return F.relu(y)
        return F.relu(torch.add(x, y) if self.how == "function" else x + y)

    def forward_head(self, features: Tensor) -> Tensor:
        if self.how == "method":
            return self.linear(features.mean((2, 3)))
        if self.how == "function":
            return self.linear(torch.mean(features, dim=(2, 3)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1))


def functional(how: str) -> Functional:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Functional(how)


@pytest.mark.parametrize("how", ["function", "in place", "operator", "statements", "modules"])
def test_functions_and_methods_are_followed_like_modules(how):
    images = lattice_images(4, dtype=torch.float64)
    expected = LRP().relevance(functional("method"), images, TARGET)
    torch.testing.assert_close(LRP().relevance(functional(how), images, TARGET), expected)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("scaled", "no rule for 'add'"),
        ("product", "no rule for 'mul'"),
        ("branch", "cannot follow"),
        ("out", "cannot follow"),
        ("under another name", "has other logits"),
        ("through a view", "has other logits"),
    ],
)
def test_what_cannot_be_followed_is_refused(how, message):
    with pytest.raises(TypeError, match=message):
        LRP().explain(functional(how), lattice_images(4, dtype=torch.float64), TARGET)


def test_promise_23_after_an_error_the_classifier_is_as_before():
    classifier = small_classifier()
    calls: list[object] = []
    handle = classifier.conv1.register_forward_hook(lambda *_: calls.append(None))
    classifier.linear.weight.requires_grad_(False)
    before = weights_hash(classifier), [dict(m.__dict__) for m in classifier.modules()]
    with pytest.raises(ValueError, match=r"images: \(2, 5, 16, 16\)"):
        LRP().explain(classifier, torch.rand(2, 5, SIDE, SIDE), TARGET[:2])
    with pytest.raises(RuntimeError, match="out of bounds"):
        LRP().relevance(classifier, lattice_images(4), TARGET + 10)
    assert (weights_hash(classifier), [dict(m.__dict__) for m in classifier.modules()]) == before
    handle.remove()


def test_batch_norm_in_train_mode_is_refused():
    classifier = small_classifier().train()
    with pytest.raises(ValueError, match=r"BatchNorm in eval mode.*eval\(\)"):
        LRP().relevance(classifier, lattice_images(4), TARGET)


@pytest.mark.parametrize("options", [{"rules": "zplus"}, {"epsilon": 0.0}, {"pool": 0}])
def test_arguments_that_make_no_sense_are_refused(options):
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=f"{key}={value!r}"):
        LRP(**options)


def test_without_zennit_the_error_says_what_to_install(monkeypatch):
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(lrp, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "lightning-adv2\[lrp\]"'):
        LRP()


class Broadcast(Classifier):
    """A gate: what is summed has two sizes."""

    def __init__(self) -> None:
        super().__init__(MEAN, STD)
        self.num_classes, self.conv, self.linear = 4, nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.double().eval()

    def stages(self):
        return [lambda x: (z := self.conv(x).relu()) + z.mean((2, 3), keepdim=True)]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.linear(features.mean((2, 3)))


def test_a_sum_that_broadcasts_conserves_relevance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Broadcast()
    nn.init.zeros_(classifier.conv.bias)
    nn.init.zeros_(classifier.linear.bias)
    images = lattice_images(4, dtype=torch.float64)
    total = LRP("epsilon", epsilon=1e-12).relevance(classifier, images, TARGET).sum((1, 2, 3))
    logits = classifier(images).gather(1, TARGET[:4, None])[:, 0]
    torch.testing.assert_close(total, logits.detach(), rtol=1e-5, atol=1e-7)


def test_other_threads_go_on_while_a_network_is_traced():
    """torch.fx patches ``nn.Module`` for the whole process."""
    classifier, images = small_classifier(), lattice_images(2)
    expected = LRP(pool=2).explain(classifier, images, TARGET[:2]).attribution_map
    bystander, found, failed, over = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), [], [], threading.Event()

    def explain() -> None:
        try:
            found.extend(LRP(pool=2).explain(classifier, images, TARGET[:2]).attribution_map for _ in range(10))
        except Exception as error:
            failed.append(error)

    def call() -> None:
        try:
            while not over.is_set():
                bystander(torch.zeros(1, 4))
                assert isinstance(bystander[0].weight, nn.Parameter)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=explain) for _ in range(4)]
    beside = threading.Thread(target=call)
    beside.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    beside.join()
    assert not failed
    assert len(found) == 40
    assert all(torch.equal(one, expected) for one in found)
    assert bystander(torch.zeros(1, 4)).shape == (1, 4)
    assert nn.Module.__call__ is CALL
    assert nn.Module.__getattr__ is GETATTR
