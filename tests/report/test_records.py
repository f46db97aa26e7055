from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_adv2.report import BatchRecord, read_records, records, write_record
from lightning_adv2.report.records import check_name, read_record, record_key, to_float, to_numpy, to_uint8
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
        make_record(2, ["a"], interpreter="rts", place=3, target="patch"),
    ],
    ids=["full", "grey", "no-trace", "empty", "target"],
)
def test_round_trip(record: BatchRecord, tmp_path: Path) -> None:
    for attack in record.attacks[:1]:
        attack.unit, attack.flags = "px", ["constant map (3 images)", "ümlaut"]
    path = write_record(record, tmp_path / "records")
    assert path == tmp_path / "records" / record.interpreter / f"batch_{record.batch_index:05d}.safetensors"
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


def test_records_come_in_the_order_of_the_modules_interpreters(tmp_path: Path) -> None:
    """Neither the names nor the time of writing decide."""
    for index in (1, 0):
        for place, name in ((1, "cam"), (2, "a-last"), (0, "rts")):
            write_record(make_record(index, [str(index)], interpreter=name, place=place), tmp_path)
    found = [(record.interpreter, record.batch_index) for record in read_records(tmp_path)]
    assert found == [(name, index) for name in ("rts", "cam", "a-last") for index in (0, 1)]
    assert [record.batch_index for record in read_records(tmp_path / "cam")] == [0, 1]


def test_records_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cam", "rts"):
        for index in range(3):
            write_record(make_record(index, ["a"], interpreter=name), tmp_path)
    read: list[Path] = []
    original = records.read_record
    monkeypatch.setattr(records, "read_record", lambda path: read.append(path) or original(path))
    for k, _ in enumerate(read_records(tmp_path), start=1):
        assert len(read) == k


@pytest.mark.parametrize("name", ["adv2", "adv2-smooth_1.5", "7"])
def test_good_names(name: str) -> None:
    check_name("attacks", name)


@pytest.mark.parametrize("name", ["", "ADV2", "adv2 smooth", "a/b", "..", ".hidden", "ümlaut", "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"attacks: the name .* take lower-case letters"):
        check_name("attacks", name)


@pytest.mark.parametrize("metadata", [None, {"format": "lightning_adv2 record 0", "header": "{}"}, {"format": "pt"}])
def test_a_foreign_file_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "batch_00000.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match=r"batch_00000.safetensors: no record of this version"):
        read_record(path)


@pytest.mark.parametrize("folder", [".", "cam"])
def test_a_foreign_file_is_refused_among_records(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder / "batch_00000.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({"weight": torch.zeros(2)}, path, {"format": "lightning_adv2 record 1"})
    with pytest.raises(ValueError, match=r"no record of this version \(format 'lightning_adv2 record 1'"):
        list(read_records(tmp_path))


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    old = make_record(0, ["old"])
    path = write_record(old, tmp_path)
    broken = make_record(0, ["new"])
    broken.benign_map = torch.empty(1, 1, 4, 4, device="meta")  # has no bytes to write
    with pytest.raises((NotImplementedError, RuntimeError)):
        write_record(broken, tmp_path)
    assert_equal(read_record(path), old)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_in_the_way_fails_loudly(tmp_path: Path) -> None:
    (tmp_path / "cam" / "batch_00000.safetensors").mkdir(parents=True)
    with pytest.raises(OSError, match="batch_00000"):
        write_record(make_record(0, ["a"]), tmp_path)
    assert [p.name for p in (tmp_path / "cam").iterdir()] == ["batch_00000.safetensors"]


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
