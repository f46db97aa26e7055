from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from configurations import evaluation, rts, training
from lab import WIDTHS, run_python, victim_weights, wandb_home  # noqa: F401 - the fixture is autouse

from lightning_adv2.__main__ import main as entry_point
from lightning_adv2.cli import main
from lightning_adv2.models import read_weights
from lightning_adv2.results import read_records


def leet(run: Path) -> list[Any]:
    """The transaction log of an offline run, by W&B's own reader."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", run]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def test_test_leaves_everything_and_logs_offline(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    main(["test", "--config", config])
    wandb.finish()
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert [(row["attack"], row["steps"], row["n"]) for row in results["rows"]] == [
        ("noise", 0, 6), ("target_class", 0, 6), ("pgd", 4, 6), ("adv2", 4, 6)
    ]  # fmt: skip
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["num_images"] == 6
    assert saved["trainer"]["inference_mode"] is False
    assert saved["seed_everything"] == 0
    for name in (
        "results.csv",
        "images.csv",
        "figures/gallery.png",
        "figures/agreement.png",
        "figures/convergence.png",
    ):
        assert (run / name).stat().st_size > 100, name
    (offline,) = (run / "wandb").glob("offline-run-*")
    records = leet(offline)
    text = json.dumps(records)
    for key in (
        "running/pgd-fast/cam/asr", "running/adv2-fast/cam/iou", "running/noise/cam/l1",  # while it runs
        "convergence/test/cam/l1",  # over the attack's steps
        "images/test/cam/table", "images/test/cam/overlays", "images/test/cam/gallery",
        "test/adv2-fast/cam/asr", "test/benign/accuracy",  # the final means
        "class_path", "lightning_adv2.modules.IDLS", "num_images",  # the configuration
    ):  # fmt: skip
        assert key in text, key


def test_logger_false(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    main(["test", "--config", config, "--trainer.logger", "false"])
    assert (tmp_path / "run" / "results.json").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert not list(tmp_path.rglob("wandb"))


def test_without_a_progress_bar(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    main(["test", "--config", config, "--trainer.logger=false", "--trainer.enable_progress_bar=false"])
    assert (tmp_path / "run" / "results.json").is_file()


def test_overrides_and_seed(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    main(["test", "--config", config, "--trainer.logger=false", "--data.num_images=3", "--seed_everything=5"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["denominators"]["selected"] == 3
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed_everything"] == 5


def test_the_saved_config_runs_again(tmp_path: Path) -> None:
    main(["test", "--config", evaluation(tmp_path, victim_weights(tmp_path)), "--trainer.logger=false"])
    first = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    again = (tmp_path / "run" / "config.yaml").rename(tmp_path / "again.yaml")
    main(["test", "--config", str(again), f"--trainer.default_root_dir={tmp_path / 'second'}"])
    second = json.loads((tmp_path / "second" / "results.json").read_text())["rows"]
    assert first == second


def test_promise_5_a_refused_run_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    words = ["test", "--config", evaluation(tmp_path, victim_weights(tmp_path)), "--trainer.logger=false"]
    main(words)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError, match="seed"):
        main([*words, "--data.init_args.seed=77"])
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", evaluation(tmp_path, tmp_path / "not there.safetensors"), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"] == "lightning_adv2.modules.IDLS"
    assert printed["trainer"]["inference_mode"] is False
    assert printed["verbose"] is False
    assert not (tmp_path / "run").exists()


def test_predict(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    main(
        [
            "predict",
            "--config",
            config,
            "--trainer.logger=false",
            "--trainer.callbacks=lightning_adv2.modules.MapWriter",
        ]
    )
    files = sorted(path.name for path in (tmp_path / "run" / "maps").iterdir())
    assert files == ["batch_00000.safetensors", "batch_00001.safetensors"]
    maps = read_weights(tmp_path / "run" / "maps" / files[0])
    assert maps["attribution_map"].shape == (4, 1, 4, 4)
    assert maps["predicted"].shape == maps["confidence"].shape == (4,)
    assert (tmp_path / "run" / "figures" / "maps.png").is_file()


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def test_promise_9_fit_run_again_goes_on_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "--config", training(tmp_path, victim_weights(tmp_path)), "--trainer.logger=false"]
    main(command)
    trained = tmp_path / "trained" / "rts.safetensors"
    assert saved_step(tmp_path / "trained") == 4
    before = trained.read_bytes()
    trained.unlink()  # as if killed between the last checkpoint and the weights
    main(command)
    assert trained.read_bytes() == before, "nothing was left to train, and the weights were missing"
    capsys.readouterr()
    main([*command, "--trainer.max_steps=6"])
    assert saved_step(tmp_path / "trained") == 6
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        main([*command, "--trainer.max_steps=7", f"--ckpt_path={tmp_path / 'nowhere.ckpt'}"])


@pytest.mark.slow
def test_promise_1_fit_is_killed_and_the_same_command_is_run_again(tmp_path: Path) -> None:
    config = training(tmp_path, victim_weights(tmp_path))
    words = ["-m", "lightning_adv2", "fit", "--config", config, "--trainer.logger=false", "--trainer.max_steps=60"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_python(*words, f"--trainer.default_root_dir={whole}", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [*words, f"--trainer.default_root_dir={killed}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment) as process:
        while not (killed / "checkpoints" / "last.ckpt.previous").exists():  # two epochs are saved
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (killed / "rts.safetensors").exists()
    reached = saved_step(killed)
    again = run_python(*command, folder=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"Continuing from step {reached}" in again.stderr
    assert saved_step(killed) == saved_step(whole) == 60
    assert (killed / "rts.safetensors").read_bytes() == (whole / "rts.safetensors").read_bytes()


def test_checkpointing_can_be_turned_off(tmp_path: Path) -> None:
    command = ["fit", "--config", training(tmp_path, victim_weights(tmp_path)), "--trainer.logger=false"]
    main([*command, "--trainer.enable_checkpointing=false"])
    main([*command, "--trainer.fast_dev_run=true"])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_fit_resume_then_test(tmp_path: Path) -> None:
    weights = victim_weights(tmp_path)
    main(["fit", "--config", training(tmp_path, weights), "--trainer.logger=false"])
    trained = tmp_path / "trained" / "rts.safetensors"
    assert trained.is_file()
    (checkpoint,) = (tmp_path / "trained").rglob("*.ckpt")
    resumed = ["--trainer.max_steps=6", f"--trainer.default_root_dir={tmp_path / 'resumed'}"]
    main(
        [
            "fit",
            "--config",
            training(tmp_path, weights),
            "--trainer.logger=false",
            *resumed,
            f"--ckpt_path={checkpoint}",
        ]
    )
    assert saved_step(tmp_path / "resumed") == 6
    config = evaluation(tmp_path, weights, rts(weights, trained))
    main(["test", "--config", config, "--trainer.logger=false"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["interpreter"] for row in results["rows"]} == {"rts"}


def test_a_checkpoint_does_not_override_the_config(tmp_path: Path) -> None:
    weights = victim_weights(tmp_path)
    config = training(tmp_path, weights)
    main(["fit", "--config", config, "--trainer.logger=false"])
    (checkpoint,) = (tmp_path / "trained").rglob("*.ckpt")
    other = [
        "--model.selector_steps=3",
        f"--trainer.default_root_dir={tmp_path / 'other'}",
        f"--ckpt_path={checkpoint}",
    ]
    main(["validate", "--config", config, "--trainer.logger=false", *other])
    saved = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    assert saved["model"]["init_args"]["selector_steps"] == 3
    assert saved["ckpt_path"] == str(checkpoint)


def test_validate_without_an_attack_prints_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = training(tmp_path, victim_weights(tmp_path))
    main(["validate", "--config", config, "--trainer.logger=false", "--trainer.callbacks=null"])
    assert "val/benign/rts/preserved" in capsys.readouterr().out


def test_wrong_weights_path(tmp_path: Path) -> None:
    config = evaluation(tmp_path, tmp_path / "nowhere.safetensors")
    done = run_python("-m", "lightning_adv2", "test", "--config", config, folder=tmp_path)
    assert done.returncode not in (0, None)
    assert "nowhere.safetensors" in done.stderr
    assert "no such file" in done.stderr
    assert not list(tmp_path.rglob("results.json"))


def test_the_installed_command() -> None:
    found = entry_points(group="console_scripts", name="lightning-adv2")
    assert [entry.load() for entry in found] == [entry_point]


def test_the_table_survives_a_pipe(tmp_path: Path) -> None:
    config = evaluation(tmp_path, victim_weights(tmp_path))
    done = run_python("-m", "lightning_adv2", "test", "--config", config, "--trainer.logger=false", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if "adv2" in line and "fast" in line and "%" in line]  # not the flag below
    (row,) = [r for r in json.loads((tmp_path / "run" / "results.json").read_text())["rows"] if r["attack"] == "adv2"]
    assert f"{row['iou']:.3f}" in line
    records = list(read_records(tmp_path / "run" / "records"))
    assert [len(record.image_id) for record in records] == [4, 2]
