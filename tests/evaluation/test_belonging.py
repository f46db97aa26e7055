"""Which files a run takes for its own, and what it costs when those that say so are damaged or lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from damage import flipped
from lab import attack_data, idls, short_attacks, trainer

from lightning_adv2.__main__ import main
from lightning_adv2.audit.verify import verify
from lightning_adv2.data import Manifest
from lightning_adv2.evaluation import AttackEvaluation
from lightning_adv2.files.run import find_records, read_arrays, record_path
from lightning_adv2.models import save_weights
from lightning_adv2.results.records import read_record, write_record
from lightning_adv2.results.run import read_run
from lightning_adv2.runtime.experiment import DifferentExperimentError

NAMES = ("cam", "grad")


def run_again(folder: Path, seed: int = 0) -> bytes:
    evaluation = AttackEvaluation(short_attacks(), seed=seed)
    trainer(folder, evaluation).test(idls(*NAMES), attack_data(num_images=5), verbose=False)
    return (folder / "results.json").read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two runs that differ in their seed alone."""
    folders = {seed: tmp_path_factory.mktemp("made") / "run" for seed in (0, 1)}
    for seed, folder in folders.items():
        run_again(folder, seed)
    return folders


@pytest.fixture
def run(made: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in find_records(folder / "records").records}


def flip(path: Path) -> None:
    """A bit of a digit or letter in the middle, so that the JSON can be read as before."""
    content = path.read_bytes()
    for _, changed in flipped(content, 200, start=len(content) // 3):
        if chr(next(a for a, b in zip(changed, content, strict=True) if a != b)).isalnum():
            path.write_bytes(changed)
            return
    raise AssertionError("no such bit")


LOSSES = {
    "one bit": (flip, ["{0}.json"]),
    "one bit of the copy": (flip, ["{0}.copy.json"]),
    "one file": (Path.unlink, ["{0}.json"]),
    "a bit each of both": (flip, ["{0}.json", "{0}.copy.json"]),
    "both files": (Path.unlink, ["{0}.json", "{0}.copy.json"]),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["records/experiment", "manifest"])
def test_promise_7_no_attack_is_lost_with_a_small_file(
    run: Path, name: str, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, results = times(run), (run / "results.json").read_bytes()
    kept = {path: path.read_bytes() for path in run.rglob("*.json") if path.stem.partition(".")[0] in name}
    damage, files = LOSSES[loss]
    for file in files:
        damage(run / file.format(name))
        assert any(file.format(name) in one or f"{name}.json" in one for one in verify(run)[0]), verify(run)[0]
    if len(files) == 1:
        read_run(run)
    capsys.readouterr()
    assert run_again(run) == results
    assert times(run) == before, "no batch is attacked again"
    assert {path: path.read_bytes() for path in kept} == kept
    assert verify(run)[0] == []
    if "both" not in loss or "experiment" in name:
        assert "written anew" in capsys.readouterr().out


def test_promise_5_records_of_another_run_are_refused_by_name(run: Path, made: dict[int, Path]) -> None:
    stranger = record_path(run / "records", "grad", 1)
    shutil.copyfile(record_path(made[1] / "records", "grad", 1), stranger)
    before = times(run)
    assert any(str(stranger) in line and "of another experiment" in line for line in verify(run)[0])
    with pytest.raises(ValueError, match=r"grad/batch_00001.safetensors is of another experiment; take it away"):
        read_run(run)
    with pytest.raises(SystemExit, match="of another experiment"):
        main(["report", str(run)])
    with pytest.raises(DifferentExperimentError) as caught:
        run_again(run)
    assert "1 of 4 files are of another experiment" in str(caught.value)
    assert str(stranger) in str(caught.value)
    assert times(run) == before, "nothing was attacked"
    stranger.unlink()
    run_again(run)
    assert verify(run)[0] == []


def test_promise_5_records_without_a_description_are_no_other_experiments(run: Path, made: dict[int, Path]) -> None:
    """All records and nothing that says whose they are: those of another run are refused, the run's own kept."""
    before, results = times(run), (run / "results.json").read_bytes()
    for path in (run / "records").glob("*.json"):
        path.unlink()
    assert any("experiment.json" in line and "missing" in line for line in verify(run)[0])
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        read_run(run)
    with pytest.raises(DifferentExperimentError, match="4 of 4 files are of another experiment"):
        run_again(run, seed=1)
    assert times(run) == before
    assert run_again(run) == results
    assert times(run) == before


def test_a_lost_manifest_is_not_made_anew_with_other_images(run: Path) -> None:
    for path in run.glob("manifest*.json"):
        path.unlink()
    with pytest.raises(DifferentExperimentError, match="the records are of other images"):
        trainer(run, AttackEvaluation(short_attacks())).test(idls(*NAMES), attack_data(num_images=6), verbose=False)
    assert not list(run.glob("manifest*.json"))
    run_again(run)
    assert len(Manifest.load(run / "manifest.json").entries) == 5


def test_auto_batch_size_does_not_hang_on_the_description(tmp_path: Path) -> None:
    def test() -> bytes:
        data = attack_data(num_images=5, batch_size="auto")
        trainer(tmp_path, AttackEvaluation(short_attacks())).test(idls(), data, verbose=False)
        return (tmp_path / "results.json").read_bytes()

    results, before = test(), times(tmp_path)
    for path in (tmp_path / "records").glob("*.json"):
        path.unlink()
    assert test() == results
    assert times(tmp_path) == before


STRAY = (
    "cam/batch_00000 (copy).safetensors", "cam_backup/batch_00000.safetensors", "backup/cam/batch_00001.safetensors",
    ".Trash/batch_00000.safetensors", "rts/batch_00000.safetensors", "cam/old/batch_00000.safetensors",
    "batch_00000.safetensors", "cam/batch_000000.safetensors",
)  # fmt: skip


def put(stray: str, run: Path) -> Path:
    """A record where none of the run's can be; returns what is to be named."""
    path, before = run / "records" / stray, set(find_records(run / "records").stray)
    path.parent.mkdir(parents=True, exist_ok=True)
    if stray.startswith("rts"):  # a whole record, of an interpreter that the experiment does not have
        record = read_record(record_path(run / "records", "cam", 0))
        record.interpreter, record.place = "rts", 2
        write_record(record, run / "records")
    else:
        shutil.copyfile(record_path(run / "records", "cam", 0), path)
    (named,) = set(find_records(run / "records").stray) - before
    assert path == named or named in path.parents
    return named


def test_what_is_none_of_the_run_s_is_named_and_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = (run / "results.json").read_bytes()
    named = [put(stray, run) for stray in STRAY]
    capsys.readouterr()
    assert run_again(run) == results
    said = capsys.readouterr().out
    assert [said.count(f"{one}: it is none of this run's") for one in named] == [1] * len(STRAY)
    assert all((run / "records" / stray).exists() for stray in STRAY)
    found, checked = verify(run)
    assert found == []
    assert all(any(str(one) in line for line in checked) for one in named)
    for words in (["report", str(run)], ["export", str(run)]):
        assert not main(words)
        said = capsys.readouterr().out
        assert all(f"{one}: it is none of this run's" in said for one in named), words
    assert {one.name for one in (run / "images").iterdir() if one.is_dir()} == {"benign", *NAMES}


def test_records_of_another_version_are_refused_as_such(run: Path) -> None:
    path = record_path(run / "records", "cam", 0)
    tensors = {name: torch.from_numpy(array) for name, array in read_arrays(path)[1].items()}
    save_weights(tensors, path, {"format": "lightning_adv2 record 6", "header": "{}"})
    with pytest.raises(ValueError, match=r"no record of this version \(format 'lightning_adv2 record 6'"):
        read_run(run)
    assert any(str(path) in one and "no record of this version" in one for one in verify(run)[0])
