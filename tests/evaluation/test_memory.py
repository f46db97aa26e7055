from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import interpreter, run_fresh_python, short_attacks, test_batch, victim

from lightning_adv2.evaluation.attack_batch import Shared, attack_batch
from lightning_adv2.evaluation.memory import halving, rows_of
from lightning_adv2.results import BatchRecord
from lightning_adv2.types import Batch


def some(count: int) -> Batch:
    batch: dict[str, Any] = dict(test_batch())
    return {key: value[:count] for key, value in batch.items()}  # type: ignore[return-value]


def attack(batch: Batch) -> BatchRecord:
    return attack_batch(victim(), interpreter("cam"), batch, short_attacks(), Shared(3, seed=1))


@cache
def of_all() -> BatchRecord:
    return attack(some(7))


CUDA = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("fits", "pieces", "error"),
    [(7, 1, CUDA), (4, 2, CUDA), (4, 2, MemoryError()), (2, 4, MemoryError()), (1, 7, CUDA)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_promise_17_halved_until_it_fits_and_the_same_results(fits: int, pieces: int, error: Exception) -> None:
    tried = []

    def limited(batch: Batch) -> BatchRecord:
        tried.append(len(batch["images"]))
        if len(batch["images"]) > fits:
            raise error
        return attack(batch)

    record, whole = halving(limited, some(7)), of_all()
    assert record.pieces == pieces
    assert sum(count for count in tried if count <= fits) == 7
    assert record.image_id == whole.image_id
    assert record.already_wrong == whole.already_wrong
    assert [a.key for a in record.attacks] == [a.key for a in whole.attacks]
    for one, other in zip(record.attacks, whole.attacks, strict=True):
        assert torch.equal(one.adv_predicted, other.adv_predicted)
        assert {name: curve.shape for name, curve in one.trace.items()} == {
            name: curve.shape for name, curve in other.trace.items()
        }
        # In single precision an image's result depends on its neighbours by rounding.
        for name in ("adv_map", "adv_map_true_class", "adv_map_target_class"):
            assert (getattr(one, name) - getattr(other, name)).abs().mean() < 0.02, name
        assert (one.adv_images != other.adv_images).float().mean() < 0.02
    assert torch.allclose(record.benign_map_target_class, whole.benign_map_target_class, atol=1e-5)
    again = halving(limited, some(7), most=fits)
    assert again.pieces == pieces
    assert torch.equal(again.attacks[-1].adv_images, record.attacks[-1].adv_images), "split the same way at once"


def test_promise_17_one_image_that_does_not_fit_is_an_error_that_says_so() -> None:
    def never(batch: Batch) -> BatchRecord:
        raise MemoryError

    with pytest.raises(RuntimeError, match=r"out of memory on a single image of shape \(3, 32, 32\)"):
        halving(never, some(3))


def test_other_errors_are_not_taken_for_it() -> None:
    tried = []

    def broken(batch: Batch) -> BatchRecord:
        tried.append(batch)
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        halving(broken, some(4))
    assert len(tried) == 1


def test_only_what_is_per_image_is_cut() -> None:
    batch: Any = some(4) | {
        "batch_index": 3, "scale": torch.tensor(2.0), "classes": torch.arange(7), "skipped": {"a": "cut off"},
        "source": "val", "names": ("a", "b", "c", "d"), "pair": [1, 2],
    }  # fmt: skip
    part: Any = rows_of(batch, slice(1, 3))
    assert torch.equal(part["images"], batch["images"][1:3])
    assert part["image_id"] == batch["image_id"][1:3]
    assert part["names"] == ("b", "c")
    for name in ("batch_index", "scale", "classes", "skipped", "source", "pair"):
        assert part[name] is batch[name], name
    record = halving(partial(out_of_memory_above, 2), batch)
    assert record.pieces == 2
    assert record.skipped == {"a": "cut off"}


def out_of_memory_above(count: int, batch: Batch) -> BatchRecord:
    if len(batch["images"]) > count:
        raise MemoryError
    return attack(batch)


SCRIPT = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from lab import AttackDataModule, IDLS, shapes, trainer, victim
from lightning_adv2.attacks import adv2_grad
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.interpreters import SmoothGrad

torch.set_num_threads(1)
data = AttackDataModule(shapes(image_size=96), num_images=32, batch_size=32)
module = IDLS(victim(), SmoothGrad())  # holds the graphs of all its samples
module(torch.rand(1, 3, 96, 96))  # what the libraries need once
data.manifest_for(module.classifier)
if sys.argv[3] != "all":
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]) * 2**20, resource.RLIM_INFINITY))
trainer(Path(sys.argv[2]), AttackEvaluation([adv2_grad(steps=2)])).test(module, data, verbose=False)
"""


@pytest.mark.long
def test_promise_17_a_machine_with_too_little_memory_finishes_and_says_so(tmp_path: Path) -> None:
    """A real limit by the operating system, under which torch's allocator really fails."""
    outputs = {}
    for limit in ("all", "300"):
        done = run_fresh_python(
            "-c",
            SCRIPT,
            Path(__file__).parents[1],
            tmp_path / limit,
            limit,
            folder=tmp_path,
            MALLOC_MMAP_THRESHOLD_="65536",
        )  # what is freed goes back at once
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        outputs[limit] = done.stdout
    assert "out of memory" not in outputs["all"]
    assert "smoothgrad: out of memory with 21 images at once; goes on with parts of about" in outputs["300"]
    stamps = {limit: json.loads((tmp_path / limit / "stamp.json").read_text()) for limit in outputs}
    assert stamps["all"]["halvings"] == {}
    assert stamps["300"]["halvings"]["smoothgrad"] >= 1
    rows = {limit: json.loads((tmp_path / limit / "results.json").read_text())["rows"] for limit in outputs}
    for one, other in zip(rows["all"], rows["300"], strict=True):
        assert one["n"] == other["n"]
        assert abs(one["iou"] - other["iou"]) < 0.05
