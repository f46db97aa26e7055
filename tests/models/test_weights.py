from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import spawn
import torch
from cases import small_classifier
from damage import data_start, flipped, refusal, seal_of, truncated
from full_disk import SmallDisk, small_disk
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_adv2.models import ResidualClassifier, load_weights, read_weights, save_weights, weights_hash

__all__ = ["small_disk"]


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


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npz", ".npy", ".safetensors", ""])
@pytest.mark.parametrize("kind", ["pickle", "old torch", "npz", "npy"])
def test_promise_8_no_form_of_a_pickle_runs_whatever_the_file_is_called(tmp_path, kind, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    evil = CreatesAFile(canary)
    with path.open("wb") as stream:
        if kind == "pickle":
            pickle.dump({"conv1.weight": evil}, stream, protocol=2)
        elif kind == "old torch":
            torch.save({"conv1.weight": evil}, stream, _use_new_zipfile_serialization=False)
        elif kind == "npz":
            np.savez(stream, **{"conv1.weight": np.array([evil], dtype=object)})
        else:
            np.save(stream, np.array([evil], dtype=object))
    with pytest.raises(ValueError, match=rf"evil{suffix}"):
        load_weights(small_classifier(), path)
    assert not canary.exists()
    if kind in ("pickle", "old torch"):
        content = io.BytesIO(path.read_bytes())
        torch.load(content, weights_only=False) if kind == "old torch" else pickle.load(content)
    else:
        loaded = np.load(path, allow_pickle=True)
        loaded["conv1.weight"] if kind == "npz" else None
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


ALL_TYPES = {
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([[1.5], [-2.0]], dtype=torch.bfloat16),
    "single": torch.tensor(3.25),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "counts": torch.arange(7),
    "complex": torch.tensor([1 + 2j]),
    "none": torch.zeros(0, 4),
}


def test_what_is_written_is_what_the_format_s_own_library_reads(tmp_path):
    path = save_weights(ALL_TYPES, tmp_path / "all.safetensors", {"note": 'a "seal":"sha256:' + "0" * 64 + '" inside'})
    for found in (load_file(path), read_weights(path)):
        assert found.keys() == ALL_TYPES.keys()
        for name, value in ALL_TYPES.items():
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert torch.equal(found[name], value), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["note"] == 'a "seal":"sha256:' + "0" * 64 + '" inside'


def test_the_seal_is_the_hash_of_the_content_and_equal_content_gives_equal_bytes(tmp_path):
    first = save_weights(ALL_TYPES, tmp_path / "a.safetensors").read_bytes()
    carried, wanted = seal_of(first)
    assert carried == wanted
    header = json.loads(first[8 : data_start(first)])
    for name, value in ALL_TYPES.items():
        start = data_start(first) + header[name]["data_offsets"][0]
        assert start % value.element_size() == 0, f"{name} is not aligned"
    again = dict(reversed(ALL_TYPES.items()))
    assert save_weights(again, tmp_path / "b.safetensors").read_bytes() == first
    notes = {f"note {number}": "x" for number in range(10)}  # of which the format's library keeps no order
    seals = {
        seal_of(save_weights(again, tmp_path / "b.safetensors", metadata).read_bytes())
        for metadata in (notes, dict(reversed(notes.items())), notes)
    }
    assert len(seals) == 1
    carried, wanted = seals.pop()
    assert carried == wanted
    assert carried != seal_of(first)[0]


def test_a_type_that_the_format_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"wide \(torch.complex128\)"):
        save_weights({"wide": torch.ones(1, dtype=torch.complex128)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_tied_tensors_come_back_as_independent_ones(tmp_path):
    shared = torch.arange(6.0)
    found = read_weights(save_weights({"a": shared, "b": shared, "c": shared[2:]}, tmp_path / "a.safetensors"))
    assert torch.equal(found["c"], shared[2:])
    found["a"][0] = 9
    assert found["b"][0] == 0


def test_promise_7_any_flipped_bit_and_any_cut_is_refused(tmp_path):
    path = save_weights(small_classifier().state_dict(), tmp_path / "net.safetensors", {"note": "x"})
    content = path.read_bytes()
    start = data_start(content)
    # The header is a small part of the file, and the part where a seal could get lost: more of it.
    header = [(what, changed + content[start:]) for what, changed in flipped(content[:start], 400, seed=1)]
    unnoticed = 0
    for what, changed in [*flipped(content, 100), *header, *truncated(content, 20)]:
        path.write_bytes(changed)
        assert re.search(r"net\.safetensors.*(damaged|no weights file)", refusal(read_weights, path)), what
    for _, changed in flipped(content, 20, start=start):
        path.write_bytes(changed)
        unnoticed += load_file(path).keys() == small_classifier().state_dict().keys()
    assert unnoticed == 20, "the format notices by itself: the seal would prove nothing"
    path.write_bytes(content)
    assert read_weights(path).keys() == small_classifier().state_dict().keys()


def test_promise_7_every_single_bit_of_a_small_file_counts(tmp_path):
    """Also those of the seal's own name: without it the file would look like one from elsewhere."""
    path = save_weights({"a": torch.zeros(1)}, tmp_path / "net.safetensors")
    content = path.read_bytes()
    for what, changed in flipped(content, 8 * len(content)):
        path.write_bytes(changed)
        assert refusal(read_weights, path), what


def test_a_file_from_elsewhere_has_no_seal_and_is_read(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors", {"format": "pt"})
    assert torch.equal(read_weights(tmp_path / "a.safetensors")["a"], torch.arange(3.0))


def test_promise_24_a_full_disk_keeps_the_old_weights(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "net.safetensors"
    save_weights({"a": torch.zeros(3)}, path)
    small_disk.fill()
    with pytest.raises(OSError, match=r"No space left.*free space.*net\.safetensors"):
        save_weights({"a": torch.ones(30_000)}, path)
    assert torch.equal(read_weights(path)["a"], torch.zeros(3))
    assert small_disk.names() == {"net.safetensors"}
    small_disk.free()
    save_weights({"a": torch.ones(30_000)}, path)
    assert torch.equal(read_weights(path)["a"], torch.ones(30_000))


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


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.network."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model", "net"])
def test_common_wrappings_are_unwrapped(tmp_path, wrapper, prefix):
    tensors = {f"{prefix}{name}": value for name, value in small_classifier().state_dict().items()}
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / "wrapped.th")
    target = ResidualClassifier(num_classes=4, widths=(8, 12, 16), weights=str(tmp_path / "wrapped.th"))
    assert weights_hash(target) == weights_hash(small_classifier())


def test_a_name_that_only_looks_wrapped_is_kept(tmp_path):
    holder = nn.Module()
    holder.model = nn.Linear(2, 3)
    torch.save(holder.state_dict(), tmp_path / "holder.pth")
    other = nn.Module()
    other.model = nn.Linear(2, 3)
    load_weights(other, tmp_path / "holder.pth")
    assert torch.equal(other.model.weight, holder.model.weight)


def test_an_unknown_wrapping_is_refused_with_what_the_file_has(tmp_path):
    torch.save({"student": small_classifier().state_dict(), "epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"one under state_dict.*student, epoch.*state_dict\(\)"):
        read_weights(tmp_path / "odd.pth")


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


def save_beyond_a_limit(path: Path) -> str:
    """A file-size limit is what a full disk looks like to a program, and it holds for root as well."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        save_weights({"a": torch.ones(10_000)}, path)
    except Exception as error:
        return f"failed loudly: {type(error).__name__}"[:100]
    return "saved"


def test_promise_6_a_failed_save_leaves_the_old_file_and_is_loud(tmp_path):
    path = tmp_path / "weights" / "net.safetensors"
    save_weights({"a": torch.zeros(3)}, path)
    old = path.read_bytes()
    (said,) = spawn.run(save_beyond_a_limit, path, folder=tmp_path)
    assert said.startswith("failed loudly")
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


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


def test_hash_is_the_same_in_double_precision_unless_the_values_differ():
    classifier = small_classifier()
    before = weights_hash(classifier)
    classifier.double()
    assert weights_hash(classifier) == before
    with torch.no_grad():
        next(classifier.parameters()).view(-1)[0] += 1e-13  # lost in single precision
    assert weights_hash(classifier) != before
    assert weights_hash(small_classifier().half()) != before


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
