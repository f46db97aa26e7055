from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from build_records import make_record
from damage import data_start, flip_data, flipped, refusal, seal_of, truncated
from full_disk import SmallDisk, small_disk
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_adv2.files.run import damaged, read_arrays, record_path
from lightning_adv2.results import BatchRecord, read_records, records, write_record
from lightning_adv2.results.records import (
    check_name,
    read_record,
    record_key,
    to_float,
    to_numpy,
    to_uint8,
    wait_for_records,
)

__all__ = ["small_disk"]


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
        attack.unit, attack.flags, attack.epsilon = "px", ["constant map (3 images)", "ümlaut"], 0.031
    path = write_record(record, tmp_path / "records")
    assert path == tmp_path / "records" / record.interpreter / f"batch_{record.batch_index:05d}.safetensors"
    assert path == record_path(tmp_path / "records", record.interpreter, record.batch_index)
    assert damaged(path) is None
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
    save_file({"weight": torch.zeros(2)}, path, {"format": "lightning_adv2 record 4"})
    with pytest.raises(ValueError, match=r"no record of this version \(format 'lightning_adv2 record 4'"):
        list(read_records(tmp_path))


def test_a_record_of_another_version_names_the_version_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FORMAT", "lightning_adv2 record 1000")
    monkeypatch.setattr(records, "__version__", "31.4.1")
    path = write_record(make_record(0, ["a"]), tmp_path)
    wanted = r"no record of this version \(format '.* 1000', not '.*'; lightning_adv2 31\.4\.1 reads it\)"
    with pytest.raises(ValueError, match=wanted):
        read_record(path)
    assert re.search(wanted, damaged(path) or "")


def test_promise_7_any_flipped_bit_and_any_cut_is_refused(tmp_path: Path) -> None:
    path = write_record(make_record(0, ["a", "b"], ["c"]), tmp_path)
    content = path.read_bytes()
    carried, wanted = seal_of(content)
    assert carried == wanted
    start = data_start(content)
    header = [(what, changed + content[start:]) for what, changed in flipped(content[:start], 200, seed=1)]
    for what, changed in [*flipped(content, 100), *header, *truncated(content, 20)]:
        path.write_bytes(changed)
        wanted = r"batch_00000\.safetensors: .*run the same command again"
        assert re.search(wanted, refusal(read_record, path)), what
        assert re.search(wanted, refusal(lambda folder: list(read_records(folder)), tmp_path)), what
        assert damaged(path), what
    unnoticed = 0
    for _, changed in flipped(content, 20, start=start):
        path.write_bytes(changed)
        unnoticed += len(load_file(path)) > 0
    assert unnoticed == 20, "the format notices by itself: the seal would prove nothing"
    path.write_bytes(content)
    assert damaged(path) is None


def test_why_a_record_is_not_finished(tmp_path: Path) -> None:
    path = write_record(make_record(1, ["a"]), tmp_path)
    assert "No such file" in (damaged(tmp_path / "cam" / "batch_00000.safetensors") or "")
    (tmp_path / "cam" / "batch_00003.safetensors").write_bytes(path.read_bytes())
    assert "it is the record of cam/batch_00001" in (damaged(tmp_path / "cam" / "batch_00003.safetensors") or "")
    flip_data(path)
    assert "SHA-256" in (damaged(path) or "")
    path.write_bytes(b"")
    assert "cut off" in (damaged(path) or "")
    save_file({"a": torch.zeros(1)}, path, {"format": "lightning_adv2 record 2", "header": "{}"})
    assert "format 'lightning_adv2 record 2'" in (damaged(path) or "")
    save_file({"a": torch.zeros(1)}, path, {"format": records.FORMAT, "header": "{}"})
    assert "its seal is gone" in (damaged(path) or ""), "whoever wrote it, this package did not"
    path.unlink()
    path.mkdir()
    assert damaged(path)


def test_numpy_reads_the_same(tmp_path: Path) -> None:
    """The reader without torch, against the format's own library."""
    path = write_record(make_record(0, ["a", "b"]), tmp_path)
    arrays, tensors = read_arrays(path)[1], load_file(path)
    assert arrays.keys() == tensors.keys()
    for name, value in tensors.items():
        assert arrays[name].dtype == value.numpy().dtype
        assert np.array_equal(arrays[name], value.numpy()), name


def test_what_a_killed_process_leaves_is_no_record(tmp_path: Path) -> None:
    path = write_record(make_record(0, ["a"]), tmp_path)
    (path.parent / f".{path.name}.0123.tmp").write_bytes(path.read_bytes()[:100])
    assert [record.batch_index for record in read_records(tmp_path)] == [0]


def test_more_than_a_hundred_thousand_batches_stay_in_order(tmp_path: Path) -> None:
    for index in (100_000, 99_999):
        write_record(make_record(index, ["a"]), tmp_path)
    assert [record.batch_index for record in read_records(tmp_path)] == [99_999, 100_000]


def test_promise_24_a_full_disk_keeps_the_old_record(small_disk: SmallDisk) -> None:
    old = make_record(0, ["a"])
    path = write_record(old, small_disk.folder)
    small_disk.fill()
    with pytest.raises(OSError, match=r"No space left.*free space.*batch_00000"):
        write_record(make_record(0, ["a", "b", "c"]), small_disk.folder)
    with pytest.raises(OSError, match=r"No space left.*free space"):
        write_record(make_record(1, ["d"], interpreter="rts"), small_disk.folder)
    assert_equal(read_record(path), old)
    assert small_disk.names() == {"cam/batch_00000.safetensors"}
    small_disk.free()
    new = make_record(0, ["a", "b", "c"])
    assert_equal(read_record(write_record(new, small_disk.folder)), new)


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


def test_records_that_come_late_are_waited_for_and_missing_ones_are_named(tmp_path: Path) -> None:
    late = tmp_path / "batch_00001.safetensors"
    Timer(0.7, late.touch).start()
    start = time.monotonic()
    wait_for_records([late], seconds=30)
    assert time.monotonic() - start >= 0.6
    with pytest.raises(RuntimeError, match=r"1 records are missing after 1 s, the first is .*batch_00002"):
        wait_for_records([late, tmp_path / "batch_00002.safetensors"], seconds=1)
