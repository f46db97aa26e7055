from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from cases import small_classifier
from safetensors.torch import load_file
from torch import nn

from lightning_adv2.models import ResidualClassifier, load_weights, read_weights, save_weights, weights_hash


class CreatesAFile:
    """What a malicious pickle does, harmlessly: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".ckpt"])
def test_promise_8_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    torch.save({"conv1.weight": torch.ones(1), "extra": CreatesAFile(canary)}, path)
    with pytest.raises(ValueError, match=r"evil.*refused.*safetensors"):
        load_weights(small_classifier(), path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the file was harmless anyway: this test would prove nothing"


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_refused(tmp_path, keep, suffix):
    path = tmp_path / f"net{suffix}"
    state = small_classifier().state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_weights(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=f"net{suffix}"):
        load_weights(small_classifier(), path)


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path):
    classifier, other = small_classifier(), small_classifier(seed=1)
    before = weights_hash(classifier)
    state = dict(other.state_dict())
    del state["linear.bias"]
    with pytest.raises(ValueError, match=r"1 missing: linear\.bias"):
        load_weights(classifier, save_weights(state, tmp_path / "a.safetensors"))
    state = dict(other.state_dict()) | {"linear.extra": torch.ones(1)}
    with pytest.raises(ValueError, match=r"1 unknown to the model: linear\.extra"):
        load_weights(classifier, save_weights(state, tmp_path / "b.safetensors"))
    assert weights_hash(classifier) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_promise_13_weights_that_are_not_finite_are_refused(tmp_path, bad):
    state = dict(small_classifier().state_dict())
    state["layer2.0.bn1.running_var"] = torch.full((12,), bad)
    path = save_weights(state, tmp_path / "nan.safetensors")
    classifier = small_classifier()
    before = weights_hash(classifier)
    with pytest.raises(ValueError, match=r"NaN or infinity in layer2\.0\.bn1\.running_var"):
        load_weights(classifier, path)
    assert weights_hash(classifier) == before


def test_a_missing_file_names_path_and_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors.*try that"):
        read_weights(tmp_path / "gone.safetensors", missing_hint="try that")


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": {"b": torch.ones(2)}}, torch.ones(3)])
def test_a_file_of_another_structure_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="flat mapping of names to tensors"):
        read_weights(tmp_path / "odd.pth")


def test_common_wrappings_are_unwrapped(tmp_path):
    state = small_classifier().state_dict()
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.th")
    target = ResidualClassifier(num_classes=4, widths=(8, 12, 16), weights=str(tmp_path / "wrapped.th"))
    assert weights_hash(target) == weights_hash(small_classifier())


def test_older_files_may_lack_the_batch_counter(tmp_path):
    state = {n: v for n, v in small_classifier(seed=1).state_dict().items() if not n.endswith("num_batches_tracked")}
    classifier = small_classifier()
    load_weights(classifier, save_weights(state, tmp_path / "old.safetensors"))
    assert weights_hash(classifier) == weights_hash(small_classifier(seed=1))


def test_saving_creates_the_folder_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "net.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).T}  # not contiguous
    assert save_weights(tensors, path, {"note": "x"}) == path
    assert torch.equal(load_file(path)["a"], tensors["a"])
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_promise_6_a_failed_save_leaves_the_old_file_and_is_loud(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights({"a": torch.zeros(3)}, path)
    old = path.read_bytes()
    # A file-size limit is what a full disk looks like to a program, and it holds for root as well.
    code = f"""
        import resource, signal, torch
        from lightning_adv2.models import save_weights
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_weights({{"a": torch.ones(10_000)}}, {str(path)!r})
        except Exception as error:
            print("failed loudly:", type(error).__name__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "failed loudly" in done.stdout, done.stderr
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_target_that_cannot_be_replaced_leaves_no_half_file(tmp_path):
    target = tmp_path / "net.safetensors"
    target.mkdir()
    with pytest.raises(OSError, match=r"net\.safetensors"):
        save_weights({"a": torch.zeros(3)}, target)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_hash_is_equal_for_equal_weights_and_sees_every_single_one():
    classifier = small_classifier()
    before = weights_hash(classifier)
    assert before == weights_hash(small_classifier())
    assert len(before) == 64
    for name, value in classifier.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        flat = value.view(-1)
        old = flat[-1].clone()
        flat[-1] = torch.nextafter(old, torch.tensor(9.0))
        assert weights_hash(classifier) != before, name
        flat[-1] = old
    assert weights_hash(classifier) == before


def test_hash_sees_the_normalisation():
    first, second = small_classifier(), small_classifier()
    second.mean.add_(0.1)
    assert weights_hash(first) != weights_hash(second), "same weights, other inputs: another experiment"


def test_hash_sees_the_shape():
    first, second = nn.Module(), nn.Module()
    first.weight, second.weight = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 2))
    assert weights_hash(first) != weights_hash(second)


def test_hash_takes_scalars_and_other_dtypes():
    module = nn.Module()
    module.temperature = nn.Parameter(torch.tensor(1.5))
    module.register_buffer("flags", torch.tensor([True, False]))
    module.register_buffer("coarse", torch.ones(3, dtype=torch.bfloat16))
    before = weights_hash(module)
    with torch.no_grad():
        module.temperature.fill_(1.25)
    assert weights_hash(module) != before
