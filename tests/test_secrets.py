from __future__ import annotations

import base64
from pathlib import Path

import pytest
from configurations import evaluation, training
from lab import run_python, victim_weights
from report.wandb_server import server

SCRIPT = Path(__file__).parent / "report" / "evaluate.py"
WANDB_KEY, NETRC_KEY, TOKEN = "c0ffee" * 6 + "beef", "decade" * 6 + "feed", "hf_canary0123456789abcdefghijklmnopq"


def check_no_canary(folder: Path, output: str) -> None:
    """In no byte of what the run left or printed, neither as it is nor as HTTP sends it."""
    canaries = [WANDB_KEY, NETRC_KEY, TOKEN]
    encoded = [base64.b64encode(f"{user}{key}".encode()).decode() for key in canaries for user in ("api:", "user:", "")]
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "netrc"]
    assert any("debug-internal" in path.name for path in files), "W&B's own logs are to be searched too"
    assert any(path.suffix == ".wandb" for path in files)
    for canary in (*canaries, *encoded):
        assert canary not in output
        for path in files:
            assert canary.encode() not in path.read_bytes(), path


def config(folder: Path, task: str) -> list[str]:
    """Through the command line, which leaves config.yaml and stamp.json as well."""
    weights = victim_weights(folder)
    return [task, "--config", (evaluation if task == "test" else training)(folder, weights)]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["test", "fit"])
@pytest.mark.parametrize("mode", ["online", "refused", "offline", "netrc"])
def test_promise_16_keys_are_in_no_file_of_the_run(task: str, mode: str, tmp_path: Path) -> None:
    with server(refuse=mode == "refused") as running:
        environment = {"HF_TOKEN": TOKEN, "WANDB_BASE_URL": running.url, "WANDB_API_KEY": WANDB_KEY}
        if mode == "offline":
            environment["WANDB_MODE"] = "offline"
        if mode == "netrc":
            del environment["WANDB_API_KEY"]
            netrc = tmp_path / "netrc"
            netrc.write_text(f"machine {running.url.removeprefix('http://')}\n  login user\n  password {NETRC_KEY}\n")
            environment["NETRC"] = str(netrc)
        done = run_python("-m", "lightning_adv2", *config(tmp_path, task), folder=tmp_path, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert bool(running.runs) == (mode in ("online", "netrc")), "the key is to be used"
        assert bool(running.requests) == (mode != "offline")
    run = tmp_path / ("run" if task == "test" else "trained")
    assert (run / "config.yaml").is_file()
    assert (run / "stamp.json").is_file() == (task == "test")
    check_no_canary(tmp_path, done.stdout + done.stderr)


def test_a_malformed_key_is_not_printed(tmp_path: Path) -> None:
    code = f"from lightning_adv2.report import default_logger; default_logger({str(tmp_path / 'run')!r}).close()"
    for key in ("too-short-canary", f" {WANDB_KEY}", f"{WANDB_KEY}\n", f"{WANDB_KEY[:20]} {WANDB_KEY[20:]}"):
        done = run_python("-c", code, folder=tmp_path, WANDB_API_KEY=key)
        assert done.returncode == 0, done.stderr
        assert "W&B does not work" in done.stderr
        assert key.strip() not in done.stdout + done.stderr
        assert key.strip()[:20] not in done.stdout + done.stderr
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or key.strip().encode() not in path.read_bytes(), path


def test_the_canaries_can_be_found(tmp_path: Path) -> None:
    (tmp_path / "debug-internal.log").write_text(
        f"Authorization: {base64.b64encode(f'api:{WANDB_KEY}'.encode()).decode()}"
    )
    (tmp_path / "run.wandb").touch()
    with pytest.raises(AssertionError, match="debug-internal"):
        check_no_canary(tmp_path, "")
