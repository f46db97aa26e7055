from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_records import make_record
from damage import flip_data
from lab import attack_data, idls, run_fresh_python, run_python, shapes, trainer, victim, wandb_home
from PIL import Image

import lightning_adv2
from lightning_adv2.__main__ import main
from lightning_adv2.attacks import adv2_cam, pgd, stadv
from lightning_adv2.audit.export import export
from lightning_adv2.audit.verify import verify
from lightning_adv2.data import ShapesDataset
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.twice import SEAL, write_twice
from lightning_adv2.results import BatchRecord, read_records, write_record
from lightning_adv2.results.records import read_record, record_path

__all__ = ["wandb_home"]

EPSILON = 0.031  # of every attack on pixels, by default
ATTACKS = ("noise", "target_class", "pgd-fast", "adv2-fast", "stadv-fast")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two interpreters, with its images exported."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    attacks = [pgd(epsilon=EPSILON, steps=6), adv2_cam(steps=4), stadv(steps=2)]
    trainer(folder, AttackEvaluation(attacks)).test(idls("cam", "grad"), attack_data(), verbose=False)
    assert main(["export", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, without pictures, which would take most of the time."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("images")))


@pytest.fixture
def pictured(finished: Path, run: Path) -> Path:
    """The same with the exported images."""
    shutil.copytree(finished / "images", run / "images")
    return run


def image_of(record: BatchRecord, place: int = 1) -> str:
    return record.image_id[place]


def changed(run: Path, change: Callable[[BatchRecord], None], batch: int = 1, interpreter: str = "cam") -> Path:
    """Change a record and seal it anew, as somebody who knows the format could."""
    record = read_record(record_path(run / "records", interpreter, batch))
    change(record)
    return write_record(record, run / "records")


def found_in(run: Path, *words: str) -> list[str]:
    """What is found; one sentence at least must have all of the words."""
    found, _ = verify(run)
    assert any(all(word in one for word in words) for one in found), (words, found)
    return found


def test_a_finished_run_holds(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(finished)[0] == []
    assert main(["verify", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "8 records of 2 interpreters" in text
    assert "manifest.json: 13 images" in text
    assert f"images: {13 + 2 * 13 * len(ATTACKS)} pictures" in text
    assert "all holds" in text


@pytest.mark.parametrize("word", ["verify", "export"])
def test_the_command_needs_neither_torch_nor_lightning(word: str, run: Path) -> None:
    code = (
        "import sys; from lightning_adv2.__main__ import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'matplotlib', 'torchmetrics'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy)); sys.exit(code)"
    )
    done = run_fresh_python("-c", code, word, run, folder=run.parent)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    flip_data(record_path(run / "records", "cam", 2))
    done = run_python("-m", "lightning_adv2", word, run, folder=run.parent)
    assert done.returncode == 1
    assert "batch_00002.safetensors: the file is damaged" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_still_offers_the_attack() -> None:
    assert "adv2" in dir(lightning_adv2)
    assert lightning_adv2.adv2.__module__.startswith("lightning_adv2.attacks")
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        lightning_adv2.nothing_of_the_kind  # noqa: B018
    assert "torch" in sys.modules


def test_promise_4_every_exported_image_is_legal_and_scored_as_reported(finished: Path) -> None:
    """By PIL, NumPy and the classifier alone: nothing here reads a record."""
    manifest = {entry["image_id"]: entry for entry in json.loads((finished / "manifest.json").read_text())["entries"]}
    results = json.loads((finished / "results.json").read_text())
    with (finished / "images.csv").open(newline="") as stream:
        valid = {
            (r["interpreter"], r["attack"], r["schedule"], r["image_id"]): r["valid"] for r in csv.DictReader(stream)
        }
    benign = {}
    with (finished / "images" / "files.csv").open(newline="") as stream:
        image_of_file = {row["file"]: row["image_id"] for row in csv.DictReader(stream)}
    for path in (finished / "images" / "benign").rglob("*.png"):
        image_id = image_of_file[path.relative_to(finished / "images").as_posix()]
        benign[image_id] = np.asarray(Image.open(path))
        assert path.parent.name == ShapesDataset.classes[manifest[image_id]["label"]]
    assert benign.keys() == manifest.keys()
    for image_id, pixels in benign.items():
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == manifest[image_id]["sha256"]
    classifier, scored = victim(), 0
    moved_most = dict.fromkeys(ATTACKS, 0)
    for row in results["rows"]:
        key = row["attack"] if row["schedule"] == "control" else f"{row['attack']}-{row['schedule']}"
        hits = []
        for path in (finished / "images" / row["interpreter"] / key).rglob("*.png"):
            image_id = image_of_file[path.relative_to(finished / "images").as_posix()]
            assert path.stem.endswith(f"__to_{ShapesDataset.classes[manifest[image_id]['target_class']]}")
            pixels = np.asarray(Image.open(path))
            assert pixels.dtype == np.uint8
            assert pixels.shape == benign[image_id].shape
            moved = np.abs(pixels.astype(int) - benign[image_id].astype(int)).max()
            moved_most[key] = max(moved_most[key], moved)
            if row["unit"] == "Linf":
                assert moved / 255 <= EPSILON, path
            if valid[row["interpreter"], row["attack"], row["schedule"], image_id] == "True":
                images = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None] / 255
                with torch.no_grad():
                    hits.append(int(classifier(images).argmax()) == manifest[image_id]["target_class"])
            scored += 1
        assert len(hits) == row["n"]
        assert sum(hits) / len(hits) == row["asr"], key
    assert scored == 2 * 13 * len(ATTACKS)
    assert moved_most["target_class"] == 0
    assert moved_most["pgd-fast"] == math.floor(EPSILON * 255), "the attack goes to the border: the check could fail"
    assert moved_most["stadv-fast"] > 8, "a flow has no such border"
    assert any(row["asr"] > 0 for row in results["rows"])


def test_exporting_elsewhere_and_checking_there(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished), "--output", str(tmp_path / "out")]) == 0
    names = {path.relative_to(finished / "images") for path in (finished / "images").rglob("*.png")}
    assert names == {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")}
    record = read_record(record_path(finished / "records", "grad", 0))
    for attack in record.attacks:
        label, target = (ShapesDataset.classes[int(one[2])] for one in (record.label, record.target_class))
        name = f"{record.image_id[2].split('/')[-1]}__to_{target}.png"
        path = tmp_path / "out" / "grad" / attack.key / label / name
        assert np.array_equal(np.asarray(Image.open(path)), attack.adv_images[2].permute(1, 2, 0).numpy())
    (tmp_path / "out" / "grad" / "more.png").write_bytes(path.read_bytes())
    path.unlink()
    found, _ = verify(finished, tmp_path / "out")
    assert len(found) == 2
    assert f"{path} cannot be read" in found[0]
    assert "more.png: it belongs to no record" in found[1]


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    record = make_record(0, ["a/b", "a%2Fb", "c d"], channels=1)
    write_record(record, tmp_path / "records")
    assert len(export(tmp_path)) == 3 * (1 + len(record.attacks))
    names = ["b", "a%252Fb", "c d"]
    for i, name in enumerate(names):
        label, target = int(record.label[i]), int(record.target_class[i])  # this run does not say how they are called
        picture = Image.open(tmp_path / "images" / "benign" / str(label) / f"{name}.png")
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), record.images[i, 0].numpy())
        picture = Image.open(tmp_path / "images" / "cam" / "adv2-fast" / str(label) / f"{name}__to_{target}.png")
        assert np.array_equal(np.asarray(picture), record.attacks[2].adv_images[i, 0].numpy())
    assert not [one for one in verify(tmp_path)[0] if ".png" in one]


def test_images_that_png_cannot_hold_are_named(tmp_path: Path) -> None:
    write_record(make_record(0, ["a"], channels=2), tmp_path / "records")
    with pytest.raises(ValueError, match=r"batch_00000.*images of 2 channels"):
        export(tmp_path)


def test_export_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path)])
    assert stopped.value.code == 1
    assert "there are no records in it" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 1
    assert "there are no records" in capsys.readouterr().out


def test_promise_7_a_flipped_bit_in_a_record(run: Path) -> None:
    path = record_path(run / "records", "grad", 1)
    flip_data(path)
    found_in(run, str(path), "SHA-256")


def test_promise_7_a_changed_benign_pixel_sealed_anew(pictured: Path) -> None:
    run = pictured

    def change(record: BatchRecord) -> None:
        record.images[1, 2, 30, 31] ^= 1

    path = changed(run, change)
    image_id = image_of(read_record(path))
    found_in(run, path.name, image_id, "benign pixels are not those of manifest.json")
    found_in(run, str(run / "images" / "benign"), "row 30, column 31, channel 2")


@pytest.mark.parametrize("key", ["noise", "pgd-fast", "adv2-fast", "stadv-fast"])
def test_promise_7_a_changed_adversarial_pixel_sealed_anew(pictured: Path, key: str) -> None:
    """Within epsilon even: towards the benign image."""
    run = pictured
    benign = read_record(record_path(run / "records", "cam", 1))
    image_id = image_of(benign)
    (attack,) = [attack for attack in benign.attacks if attack.key == key]
    c, y, x = (attack.adv_images[1] != benign.images[1]).nonzero()[0].tolist()

    def change(record: BatchRecord) -> None:
        (own,) = [attack for attack in record.attacks if attack.key == key]
        up = bool(record.images[1, c, y, x] > own.adv_images[1, c, y, x])
        own.adv_images[1, c, y, x] += 1 if up else -1 % 256

    changed(run, change)
    found_in(run, "images.csv", image_id, "adv_sha256")
    found_in(run, f"cam/{key}/", f"/{image_id.split('/')[-1]}__to_", f"row {y}, column {x}, channel {c}")
    shutil.rmtree(run / "images")
    found_in(run, "images.csv", image_id, "adv_sha256")


def test_promise_4_an_image_beyond_epsilon_is_named_though_all_files_agree(run: Path) -> None:
    def change(record: BatchRecord) -> None:
        attack = record.attacks[2]
        benign = int(record.images[1, 0, 3, 4])
        attack.adv_images[1, 0, 3, 4] = benign + 8 if benign < 128 else benign - 8

    path = changed(run, change)
    image_id = image_of(read_record(path))
    found_in(run, path.name, "pgd-fast", image_id, "row 3, column 4, channel 0 is 8 levels", "allows 7")


def test_an_epsilon_made_larger_does_not_help(run: Path) -> None:
    def change(record: BatchRecord) -> None:
        record.attacks[2].epsilon = 0.5

    found_in(run, changed(run, change).name, "pgd-fast: epsilon is 0.5, by experiment.json 0.031")


def test_a_clean_image_that_is_not_clean(run: Path) -> None:
    def change(record: BatchRecord) -> None:
        record.attacks[1].adv_images[0, 0, 0, 0] ^= 1

    found_in(run, changed(run, change).name, "target_class", "1 levels", "allows 0")


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("adv_predicted", "adv_predicted"), ("confidence", "confidence"), ("adv_map", "l1"), ("valid", "valid"),
        ("size", "size"), ("adv_map_true_class", "l1_true_class"), ("adv_map_target_class", "l1_target_class"),
    ],
)  # fmt: skip
def test_promise_7_a_changed_value_sealed_anew(run: Path, name: str, stated: str) -> None:
    def change(record: BatchRecord) -> None:
        values = getattr(record.attacks[3], name)
        if name == "adv_predicted":
            values[1] = record.target_class[1] if values[1] != record.target_class[1] else record.label[1]
        elif name == "valid":
            values[1] = ~values[1]
        else:
            values[1] = values[1] * 0.99 + 0.001

    image_id = image_of(read_record(changed(run, change)))
    found_in(run, "images.csv", image_id, f"{stated} is")
    found_in(run, "results.json", "cam/adv2/fast", {"adv_predicted": "asr", "valid": "n is"}.get(name, stated))


@pytest.mark.parametrize(
    ("name", "stated"), [("benign_map", "true_class"), ("benign_map_target_class", "target_class")]
)
def test_promise_7_a_changed_benign_map_sealed_anew(run: Path, name: str, stated: str) -> None:
    """Turned upside down, it agrees with other maps than it did."""

    def change(record: BatchRecord) -> None:
        getattr(record, name)[1] = 1 - getattr(record, name)[1]

    image_id = image_of(read_record(changed(run, change)))
    for figure in (f"l1_{stated}", f"iou_{stated}"):
        found_in(run, "images.csv", image_id, "cam/adv2/fast", f"{figure} is")
        found_in(run, "results.json", "cam/adv2/fast", f"{figure} is")


@pytest.mark.parametrize("name", ["label", "target_class"])
def test_a_changed_class_sealed_anew(run: Path, name: str) -> None:
    def change(record: BatchRecord) -> None:
        getattr(record, name)[1] += 1

    path = changed(run, change)
    found_in(run, path.name, image_of(read_record(path)), f"{name} is", "in manifest.json")


def test_a_missing_batch_is_named_with_its_images(run: Path) -> None:
    path = record_path(run / "records", "grad", 3)
    (image_id,) = read_record(path).image_id
    path.unlink()
    found_in(run, str(path), "is missing", image_id, "run the same command again")
    shutil.rmtree(path.parent)
    found_in(run, "grad", "batch_00000.safetensors", "is missing")


def test_a_record_in_another_one_s_place(run: Path) -> None:
    first, second = (record_path(run / "records", "cam", k) for k in (0, 1))
    second.write_bytes(first.read_bytes())
    found_in(run, str(second), "it is the record of cam/batch_00000")


def test_an_image_that_left_its_record(run: Path) -> None:
    lost: list[str] = []

    def change(record: BatchRecord) -> None:
        lost.append(record.image_id[3])
        record.image_id[3] = "stranger"

    path = changed(run, change)
    found_in(run, str(path), lost[0], "of manifest.json not in it")
    found_in(run, str(path), "'stranger' does not belong in it")


def test_a_batch_too_many(run: Path) -> None:
    record = next(iter(read_records(run / "records" / "cam")))
    record.batch_index = 4
    path = write_record(record, run / "records")
    found_in(run, str(path), "does not belong in it")


def test_an_image_that_changed_sides(run: Path) -> None:
    """From attacked to wrong before: every file but the tables agrees."""
    for interpreter in ("cam", "grad"):

        def change(record: BatchRecord) -> None:
            record.already_wrong.append(record.image_id[0])
            record.image_id, record.attacks = [], []
            for name in ("label", "target_class", "images", "benign_map", "benign_map_target_class", "target_map"):
                setattr(record, name, getattr(record, name)[:0])

        changed(run, change, batch=3, interpreter=interpreter)
    found_in(run, "results.json", "denominators of cam: already_wrong 0, from the records 1")
    found_in(run, "results.json", "denominators of grad: selected 13, from the records 12")
    found_in(run, "status.csv", "already_wrong")


def edit(run: Path, name: str, change: Callable[[Any], None]) -> None:
    content = json.loads((run / name).read_text())
    sealed = content.pop(SEAL, None)
    change(content)
    if sealed:
        write_twice(run / name, content)
    else:
        (run / name).write_text(json.dumps(content, indent=1) + "\n")


def set_row(content: Any, key: str, value: Any) -> None:
    content["rows"][2][key] = value(content["rows"][2][key])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("asr", lambda x: x + 1e-12), ("l1", lambda x: x + 1e-4), ("iou", lambda x: x - 1e-4), ("n", lambda x: x + 1),
        ("confidence", lambda x: x + 1e-4), ("linf", lambda x: x / 2), ("l2", lambda _: None), ("steps", lambda _: 100),
        ("plausible", lambda x: x + 0.01), ("unit", lambda _: "px"), ("flags", lambda _: {"constant map": 1}),
        ("target", lambda _: "patch"), ("iou_benign", lambda x: x + 1e-4), ("size", lambda x: x * 2),
        ("l1_true_class", lambda x: x + 1e-4), ("iou_true_class", lambda x: x + 1e-4),
        ("l1_target_class", lambda x: x - 1e-4), ("iou_target_class", lambda _: None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_changed_figure_in_the_results(run: Path, key: str, value: Callable[[Any], Any]) -> None:
    edit(run, "results.json", partial(set_row, key=key, value=value))
    found_in(run, "results.json: cam/pgd/fast", f"{key} is", "counted again")


def test_rounding_in_the_results_is_no_change(run: Path) -> None:
    value = json.loads((run / "results.json").read_text())["rows"][2]["l1"]
    for name in ("results.csv", "results.json"):
        text = (run / name).read_text()
        assert repr(value) in text
        (run / name).write_text(text.replace(repr(value), repr(value + 1e-8)))
    assert verify(run, sums=False)[0] == []
    assert len(verify(run)[0]) == 2, "the sums see it"


def test_changed_denominators(run: Path) -> None:
    def change(content: Any) -> None:
        content["denominators"]["cam"]["considered"] += 100
        content["denominators"]["cam"]["already_wrong"] += 100
        content["denominators"]["grad"]["attacks"]["pgd-fast"]["successful"] -= 1

    edit(run, "results.json", change)
    found_in(run, "denominators of cam: considered 113, from the records 13")
    found_in(run, "denominators of cam: already_wrong 100")
    found_in(run, "denominators of grad: attacks, pgd-fast")


@pytest.mark.parametrize("name", ["rows", "denominators"])
def test_a_row_or_an_interpreter_too_few(run: Path, name: str) -> None:
    def change(content: Any) -> None:
        del content[name]["grad" if name == "denominators" else 7]

    edit(run, "results.json", change)
    found_in(run, "results.json", "grad", "not in it" if name == "rows" else "selected None")


@pytest.mark.parametrize("name", ["results.csv", "images.csv", "status.csv"])
def test_a_changed_cell(run: Path, name: str) -> None:
    path = run / name
    lines = path.read_text().splitlines()
    old = {"results.csv": "pgd", "images.csv": "True", "status.csv": "attacked"}[name]
    place = next(i for i, line in enumerate(lines) if i and old in line)
    lines[place] = lines[place].replace(old, {"True": "False"}.get(old, "other"), 1)
    path.write_text("\n".join(lines) + "\n")
    found_in(run, name)


def test_a_changed_manifest(run: Path) -> None:
    def change(content: Any) -> None:
        content["seed"] += 1

    edit(run, "manifest.json", change)
    found_in(run, "manifest.json: it is not the manifest that the records were made with")


@pytest.mark.parametrize(
    "name", ["results.json", "results.csv", "images.csv", "status.csv", "manifest.json", "records/experiment.json"]
)
@pytest.mark.parametrize("content", ["", "null"])
def test_a_damaged_or_missing_file_is_named(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    found_in(run, name)


@pytest.mark.parametrize("name", ["results.json", "results.csv", "images.csv", "status.csv", "manifest.json"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    found_in(run, name, "is missing")


def test_pictures_that_are_not_where_they_are_said_to_be(run: Path) -> None:
    found, _ = verify(run, run / "no_such_folder")
    assert any("no_such_folder" in line for line in found)
    assert main(["verify", str(run), "--images", str(run / "no_such_folder")]) == 1


def test_one_changed_pixel_of_a_picture(pictured: Path) -> None:
    run = pictured
    path = sorted((run / "images" / "cam" / "adv2-fast").rglob("*.png"))[4]
    pixels = np.array(Image.open(path))
    pixels[5, 6, 1] ^= 1
    Image.fromarray(pixels).save(path)
    (found,) = found_in(run, path.name, "row 5, column 6, channel 1")
    assert f"is {pixels[5, 6, 1]}, in the record {pixels[5, 6, 1] ^ 1}" in found
    path.write_bytes(path.read_bytes()[:-30])
    found_in(run, path.name, "cannot be read")
    Image.fromarray(pixels[:, :, 0]).save(path)
    found_in(run, path.name, "(32, 32, 1), in the record uint8 (32, 32, 3)")


def test_what_a_killed_process_leaves_disturbs_nothing(run: Path) -> None:
    for path in [*run.rglob("batch_*.safetensors"), run / "results.json"]:
        (path.parent / f".{path.name}.0123.tmp").write_bytes(b"half")
    assert verify(run)[0] == []


def test_one_interpreter_and_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images from a plain data module: there is no manifest to compare with, and that is said."""
    evaluation = AttackEvaluation([pgd(steps=2)])
    trainer(tmp_path / "run", evaluation).test(idls(), shapes(num_test=7), verbose=False)
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert main(["verify", str(tmp_path / "run")]) == 0
    assert "compared with nothing" in capsys.readouterr().out
    edit(tmp_path / "run", "results.json", lambda content: content["denominators"].update(already_wrong=7))
    found_in(tmp_path / "run", "denominators of cam: already_wrong 7")
