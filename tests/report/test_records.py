from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_adv2.report import BatchRecord, read_records, write_record
from lightning_adv2.report.records import read_record, record_key, to_float, to_numpy, to_uint8
from report.build import make_record


def assert_equal(first: object, second: object) -> None:
    """All fields, bit by bit."""
    assert type(first) is type(second)
    for f in fields(first):  # type: ignore[arg-type]
        a, b = getattr(first, f.name), getattr(second, f.name)
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype, f.name
            assert a.shape == b.shape, f.name
            assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes(), f.name
        elif f.name == "trace":
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)
        elif f.name == "attacks":
            for x, y in zip(a, b, strict=True):
                assert_equal(x, y)
        else:
            assert a == b, f.name


@pytest.mark.parametrize(
    "record",
    [
        make_record(3, ["a/b.png", "ümlaut 猫", ""], ["wrong/1", "wrong/2"]),
        make_record(0, ["grey"], channels=1),
        make_record(1, ["x", "y"], trace=False),
        make_record(12345, [], ["all", "wrong"]),
    ],
    ids=["full", "grey", "no-trace", "empty"],
)
def test_round_trip(record: BatchRecord, tmp_path: Path) -> None:
    path = write_record(record, tmp_path / "records")
    assert path.name == f"batch_{record.batch_index:05d}.safetensors"
    assert_equal(read_record(path), record)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file was left"


def test_nan_survives_the_round_trip(tmp_path: Path) -> None:
    record = make_record(0, ["a", "b"])
    record.attacks[1].adv_map[0] = float("nan")
    record.attacks[1].confidence[0] = float("inf")
    record.attacks[1].valid[0] = False
    assert_equal(read_record(write_record(record, tmp_path)), record)


def test_no_attacks_at_all(tmp_path: Path) -> None:
    record = make_record(0, [], ["wrong"])
    record.attacks = []
    assert_equal(read_record(write_record(record, tmp_path)), record)


def test_records_come_in_the_order_of_batches(tmp_path: Path) -> None:
    for index in (10, 2, 0):
        write_record(make_record(index, [str(index)]), tmp_path)
    (tmp_path / "notes.txt").write_text("not a record")
    assert [record.batch_index for record in read_records(tmp_path)] == [0, 2, 10]
    assert list(read_records(tmp_path / "none")) == []


@pytest.mark.parametrize("metadata", [None, {"format": "lightning_adv2 record 0", "header": "{}"}, {"format": "pt"}])
def test_a_foreign_file_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "batch_00000.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match=r"batch_00000.safetensors: no record of this version"):
        read_record(path)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    old = make_record(0, ["old"])
    path = write_record(old, tmp_path)
    broken = make_record(0, ["new"])
    broken.benign_map = torch.empty(1, 1, 4, 4, device="meta")  # has no bytes to write
    with pytest.raises((NotImplementedError, RuntimeError)):
        write_record(broken, tmp_path)
    assert_equal(read_record(path), old)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_in_the_way_fails_loudly(tmp_path: Path) -> None:
    (tmp_path / "batch_00000.safetensors").mkdir()
    with pytest.raises(OSError, match="batch_00000"):
        write_record(make_record(0, ["a"]), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["batch_00000.safetensors"]


def test_8_bits_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels).dtype == torch.float32
    assert torch.equal(to_float(levels), torch.arange(256).view(1, 1, 16, 16) / 255)


def test_grey_images_get_three_channels() -> None:
    grey = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    array = to_numpy(grey)
    assert array.shape == (3, 4, 3)
    assert all(np.array_equal(array[:, :, c], grey[0].numpy()) for c in range(3))


def test_keys() -> None:
    assert record_key("noise", "control") == "noise"
    assert record_key("adv2", "fast") == "adv2-fast"
    assert [attack.key for attack in make_record(0, ["a"]).attacks] == ["noise", "pgd-fast", "adv2-fast"]
