"""Records that somebody else wrote: their names never lead out of a folder, however they are sealed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from build_records import make_record
from report.runs import make_run

from lightning_adv2.__main__ import main
from lightning_adv2.attacks import MapFile
from lightning_adv2.audit.export import export
from lightning_adv2.audit.verify import verify
from lightning_adv2.files.run import FORMAT, read_header, record_path
from lightning_adv2.files.twice import write_twice
from lightning_adv2.models import read_weights, save_weights
from lightning_adv2.report.wandb.files import read_state, starts
from lightning_adv2.report.wandb.sync import sync
from lightning_adv2.results import write_record
from lightning_adv2.results.run import read_run

NAMES = ["../../../escaped", "/tmp/escaped", "..", ".", "a/../../../../escaped", "a\0b", "..\\..\\escaped", "", "A",
         "x" * 300, "con", "caf\u00e9"]  # fmt: skip
IDS = [*NAMES, "a\nb", "C:\\escaped", "\udcff", "\u00e9" * 300, "nul.png", " ", "a/./b", "~", "-rf"]


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def hostile(run: Path, change: Callable[[Any], None]) -> Path:
    """A run with one record, changed before it was sealed, where a good one would lie."""
    record = make_record(0, ["a.png", "b.png"])
    change(record)
    name, record.interpreter = record.interpreter, "cam"
    path = record_path(run / "records", "cam", 0)
    write_record(record, run / "records")
    if name != "cam":  # the header says another name than the folder
        inner = json.dumps(read_header(path) | {"interpreter": name})
        save_weights(read_weights(path), path, {"format": FORMAT, "header": inner})
    (run / "records" / "experiment.json").write_text('{"experiment": {}, "about": {"classes": []}}')
    return path


@pytest.mark.parametrize("name", NAMES[:8])
@pytest.mark.parametrize("what", ["attack", "schedule", "interpreter"])
def test_names_that_lead_elsewhere_are_refused(what: str, name: str, tmp_path: Path) -> None:
    run = tmp_path / "deep" / "er" / "run"

    def change(record: Any) -> None:
        setattr(record if what == "interpreter" else record.attacks[1], what, name)

    path = hostile(run, change)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=rf"batch_00000\.safetensors: {what}: the name .* becomes part of files"):
        export(run)
    assert everything(tmp_path) == before
    (run / "images").mkdir()
    assert any(f"{path}: {what}: the name" in one for one in verify(run)[0])


def test_an_absolute_interpreter_that_names_its_own_folder_is_refused(tmp_path: Path) -> None:
    """Joined to any other folder it is itself."""
    run = tmp_path / "run"
    hostile(run, lambda record: setattr(record, "interpreter", str(run / "records" / "cam")))
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="interpreter: the name"):
        export(run, tmp_path / "elsewhere")
    assert everything(tmp_path) == before


def test_image_and_class_names_of_every_kind_stay_inside_and_are_listed_in_full(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "er" / "run"
    write_record(make_record(0, list(IDS)), run / "records")
    about = {"experiment": {}, "about": {"classes": NAMES}}
    (run / "records" / "experiment.json").write_text(json.dumps(about))
    before = everything(tmp_path)
    written = export(run)
    assert len(written) == len(IDS) * (1 + len(make_record(0, ["a"]).attacks))
    new = everything(tmp_path) - before
    assert all(one.startswith("deep/er/run/images") for one in new)
    assert {path.resolve() for path in written} == set((run / "images").resolve().rglob("*.png"))
    assert all(len(part.encode()) <= 255 for one in new for part in one.split("/"))
    with (run / "images" / "files.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["image_id"] for row in rows} == {one.encode(errors="backslashreplace").decode() for one in IDS}
    assert {run / "images" / row["file"] for row in rows} == set(written)
    assert {row["class"] for row in rows} <= set(NAMES)
    assert not [one for one in verify(run)[0] if "images/" in one]


def test_long_names_of_attacks_and_interpreters_are_cut_and_stay_different(tmp_path: Path) -> None:
    record = make_record(0, ["a.png"])
    record.interpreter = "i" * 200
    for number, attack in enumerate(record.attacks):
        attack.attack = "a" * 300 + str(number)
    write_record(record, tmp_path / "records")
    written = export(tmp_path)
    assert len({path.parents[1].name for path in written}) == 1 + len(record.attacks)
    assert all(len(part.encode()) <= 255 for path in written for part in path.parts)
    with (tmp_path / "images" / "files.csv").open(newline="", encoding="utf-8") as stream:
        attacks = {row["attack"] for row in csv.DictReader(stream)}
    assert attacks == {"", *(attack.key for attack in record.attacks)}
    assert not [one for one in verify(tmp_path)[0] if "images/" in one]


def test_an_output_that_leaves_no_room_for_a_path_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(make_record(0, ["a.png"]), tmp_path / "run" / "records")
    output = tmp_path.joinpath(*["d" * 250] * 16)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "run"), "--output", str(output)])
    assert stopped.value.code == 1
    assert "the path is longer than this system allows; give a shorter --output" in capsys.readouterr().err


def test_records_whose_content_does_not_fit_together_are_named(tmp_path: Path) -> None:
    def other_type(record: Any) -> None:
        record.images = record.images.float()

    hostile(tmp_path, other_type)
    with pytest.raises(ValueError, match=r"batch_00000.*images of float32; PNG takes uint8"):
        export(tmp_path)
    hostile(tmp_path, lambda record: setattr(record, "image_id", ["a.png"]))
    with pytest.raises(ValueError, match=r"batch_00000.*does not fit together"):
        export(tmp_path)


@pytest.mark.parametrize("name", ["../../other", "/tmp", "..", "a\0b"])
def test_a_report_reads_no_other_folder(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [make_record(0, ["a", "b"])])
    path = run.folder / "records" / "experiment.json"
    content = json.loads(path.read_text())
    content["experiment"]["interpreters"] = {name: {}}
    del content["sha256"]
    write_twice(path, content)
    with pytest.raises(ValueError, match=r"experiment\.json: .*the name .* becomes part of files"):
        read_run(run.folder)


def test_the_state_of_wandb_names_no_other_folder(tmp_path: Path) -> None:
    """A start of which nothing is whole is deleted when the run goes on."""
    run = make_run(tmp_path / "run", [make_record(0, ["a", "b"])])
    (run.folder / "wandb" / "offline-run-1-x").mkdir(parents=True)
    victim = tmp_path / "victim-1"
    victim.mkdir()
    (victim / "data.wandb").write_bytes(b"")
    (run.folder / "wandb.json").write_text(json.dumps({"id": "x/../../../victim-1"}))
    assert read_state(run.folder) == {}
    assert starts(run.folder, "*") == []
    sync(run.folder)
    assert (victim / "data.wandb").exists()


@pytest.mark.parametrize("image_id", ["../secret", "a/../../secret", "/secret"])
def test_maps_of_images_are_read_below_their_folder(image_id: str, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "secret.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="leads out of it; rename the image"):
        MapFile(tmp_path / "maps")._find(image_id)
