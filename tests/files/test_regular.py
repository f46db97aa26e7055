"""Only regular files are read, and none of absurd size: real pipes, devices, sockets, folders and sparse files."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bounds import ENDLESS, bounded, replace, sparse
from build_records import make_record

from lightning_adv2.__main__ import main
from lightning_adv2.attacks import MapFile
from lightning_adv2.audit.export import export
from lightning_adv2.audit.verify import verify
from lightning_adv2.data.boxes import read_boxes
from lightning_adv2.data.imagenet import _read_class_list
from lightning_adv2.data.lesion_labels import read_labels
from lightning_adv2.data.manifest import Manifest
from lightning_adv2.data.storage import FolderStorage, ZipStorage
from lightning_adv2.files import open_regular, open_table, read_bytes, read_json, read_text
from lightning_adv2.files.regular import MAX_GIB, Limit, tensor_limit, text_limit
from lightning_adv2.files.run import damaged, read_arrays, record_path, record_paths
from lightning_adv2.files.sealed import read_metadata, read_sealed
from lightning_adv2.models.weights import read_weights
from lightning_adv2.report.html.pictures import figure_uri
from lightning_adv2.report.wandb.files import read_state
from lightning_adv2.reproduction.plan import read_plan
from lightning_adv2.results import write_record
from lightning_adv2.runtime.checkpoint_io import SealedCheckpointIO

__all__ = ["bounded"]

pytestmark = pytest.mark.usefixtures("bounded")

GIB = 2**30

# Every place that opens a file that a user names or a run's folder has.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "an image": ("a.png", lambda path: FolderStorage(path.parent).read(path.name)),
    "a zip": ("a.zip", lambda path: ZipStorage(path).folders()),
    "a class list": ("a.txt", _read_class_list),
    "a class table": ("a.csv", _read_class_list),
    "boxes": ("a.csv", read_boxes),
    "labels": ("a.csv", read_labels),
    "a manifest": ("manifest.json", Manifest.load),
    "weights": ("a.pth", read_weights),
    "sealed weights": ("a.safetensors", read_weights),
    "a map": ("a.png", lambda path: MapFile(path)),
    "a record": ("batch_00000.safetensors", read_arrays),
    "a folder's records": (
        "batch_00000.safetensors",
        lambda path: [read_arrays(one) for one in record_paths(path.parent)],
    ),
    "a sealed file": ("a.safetensors", read_sealed),
    "its metadata": ("a.safetensors", read_metadata),
    "a figure": ("a.png", figure_uri),
    "a checkpoint": ("a.ckpt", lambda path: SealedCheckpointIO().load_checkpoint(path)),
    "JSON": ("a.json", read_json),
    "text": ("a.txt", read_text),
    "a table": ("a.csv", open_table),
}


@pytest.mark.parametrize(
    ("what", "kind"), [(what, kind) for what in READERS for kind in ENDLESS if (what, kind) != ("a map", "folder")]
)
def test_nothing_but_regular_files_is_read(what: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[what]
    path = replace(tmp_path / name, kind)
    start = time.perf_counter()
    with pytest.raises((OSError, ValueError, RuntimeError), match=r"no regular file|no readable zip") as raised:
        read(path)
    assert time.perf_counter() - start < 5
    assert str(path) in str(raised.value), "it names the file"
    assert what == "a map" or kind in str(raised.value)


def test_a_pipe_that_somebody_fills_is_refused_all_the_same(tmp_path: Path) -> None:
    path = replace(tmp_path / "a.json", "pipe")
    other = os.open(path, os.O_RDWR)
    os.write(other, b"{}")
    with pytest.raises(OSError, match="it is a pipe and no regular file"):
        read_json(path)
    os.close(other)


def test_handles_are_closed_where_a_file_is_refused(tmp_path: Path) -> None:
    path, large = replace(tmp_path / "a", "pipe"), sparse(tmp_path / "b", 100)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        for one in (path, large):
            with pytest.raises(OSError, match=r"regular|more than the 99"):
                open_regular(one, Limit(99, "do"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for index in range(2):
        write_record(make_record(index, [f"{index}.png"]), tmp_path / "run" / "records")
    (tmp_path / "run" / "records" / "experiment.json").write_text('{"experiment": {}, "about": {"classes": []}}')
    export(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize(
    "name", ["records/cam/batch_00000.safetensors", "records/experiment.json", "manifest.json", "results.json", "PNG"]
)
def test_verify_names_what_is_no_regular_file(run: Path, name: str, kind: str) -> None:
    path = next((run / "images").rglob("*.png")) if name == "PNG" else run / name
    replace(path, kind)
    assert main(["verify", str(run)]) == 1
    assert any(str(path) in one and "no regular file" in one for one in verify(run)[0]), verify(run)[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_export_names_what_is_no_regular_file(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = replace(record_path(run / "records", "cam", 1), kind)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run)])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert str(path) in said
    assert "no regular file" in said
    assert "no regular file" in (damaged(path) or "")


def test_reports_and_plans_do_not_wait_for_a_pipe(run: Path, tmp_path: Path) -> None:
    replace(run / "wandb.json", "pipe")
    assert read_state(run) == {}
    plan = replace(tmp_path / "plan.yaml", "pipe")
    with pytest.raises((OSError, ValueError), match="plan"):
        read_plan(plan)


# Sizes: what a file has is known before any of it is read.
TEXTS = ["a class list", "a class table", "boxes", "labels", "a manifest", "JSON", "text", "a table"]


@pytest.mark.parametrize("what", [*TEXTS, "an image", "a record", "a sealed file", "its metadata", "sealed weights"])
def test_files_of_absurd_size_are_refused_with_size_limit_and_remedy(what: str, tmp_path: Path) -> None:
    name, read = READERS[what]
    path = sparse(tmp_path / name, 50 * GIB)
    start = time.perf_counter()
    with pytest.raises((OSError, ValueError), match=rf"{50 * GIB:,} bytes, more than the .* that are read") as raised:
        read(path)
    assert time.perf_counter() - start < 5
    assert str(path) in str(raised.value)
    knob = "PIL.Image.MAX_IMAGE_PIXELS" if what == "an image" else MAX_GIB
    assert re.search(rf"if it has to be that large, (set|raise) {re.escape(knob)}", str(raised.value))


@pytest.mark.parametrize("what", ["its metadata", "a sealed file", "a record", "sealed weights"])
def test_a_header_that_claims_to_be_a_gigabyte_long_is_not_read(what: str, tmp_path: Path) -> None:
    """Unlike a cut-off one, the file is long enough for what it claims."""
    name, read = READERS[what]
    path = sparse(tmp_path / name, 2 * GIB, GIB.to_bytes(8, "little") + b'{"__metadata__":{"seal":"')
    start = time.perf_counter()
    with pytest.raises(ValueError, match="header too large"):
        read(path)
    assert time.perf_counter() - start < 5


def test_the_limit_can_be_raised_and_must_be_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (text_limit().size, tensor_limit().size) == (GIB, 16 * GIB)
    path = sparse(tmp_path / "a.json", GIB + 1)
    with pytest.raises(OSError, match="more than the 1,073,741,824 that are read") as raised:
        read_json(path)
    assert raised.value.errno == errno.EFBIG
    monkeypatch.setenv(MAX_GIB, "2")
    assert (text_limit().size, tensor_limit().size) == (2 * GIB, 2 * GIB)
    with open_table(path):
        pass
    for bad in ("0", "-1", "much", "1.5"):
        monkeypatch.setenv(MAX_GIB, bad)
        with pytest.raises(ValueError, match=rf"{MAX_GIB}='{bad}': give a whole number of GiB"):
            text_limit()


def test_a_file_that_grows_while_it_is_read_stays_within_the_limit(tmp_path: Path) -> None:
    """The kernel's files say that they are empty, and are not: to a reader, no other than a file that grows."""
    path = Path("/proc/self/maps")
    assert path.stat().st_size == 0
    assert read_bytes(path, Limit(2**24, "do")).count(b"\n") > 10
    with pytest.raises(OSError, match="more than the 100 that are read; do"):
        read_bytes(path, Limit(100, "do"))


def test_brackets_without_end_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="this is no manifest"):
        Manifest.load(tmp_path / "a.json")
