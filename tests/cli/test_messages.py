"""What a user reads when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from callbacks.lab import run_python

from lightning_adv2.cli import main
from lightning_adv2.cli.messages import shorten

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "shapes_cam.yaml"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    lines = [f"line {number}" for number in range(60)]
    short = shorten("\n".join([*lines, "do this"])).splitlines()
    assert short[0] == "line 0"
    assert short[-1] == "do this"
    assert len(short) <= 8
    assert shorten("one\n\ntwo") == "one\ntwo"


@pytest.mark.parametrize("wanted", [False, True], ids=["short", "traceback"])
def test_missing_weights_in_a_few_lines(wanted: bool, tmp_path: Path) -> None:
    content = yaml.safe_load(CONFIG.read_text())
    content["model"]["init_args"]["classifier"]["init_args"]["weights"] = "nowhere.safetensors"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    words = ["test", "--config", "run.yaml", "--trainer.logger=false", *(["--traceback"] if wanted else [])]
    done = run_python("-m", "lightning_adv2", *words, folder=tmp_path)
    assert done.returncode == 1
    assert "weights='nowhere.safetensors': no such file" in done.stderr
    assert ("Traceback" in done.stderr) is wanted
    if not wanted:
        assert len(done.stderr.splitlines()) <= 10, done.stderr


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--data.init_args.num_imagse=3"], "num_imagse"),
        (["--data.init_args.num_images=few"], "few"),
        (["--model.init_args.interpreter=GradCAMM"], "GradCAMM"),
        (["--trainer.max_epohcs=3"], "max_epohcs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=["key", "value", "class", "option", "file"],
)
def test_a_typo_in_a_few_lines(words: list[str], names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["test", "--config", str(CONFIG), *words])
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert names in text
    assert "--help" in text.splitlines()[-1]
    assert len(text.splitlines()) <= 10, text
