from __future__ import annotations

from pathlib import Path

import pytest
import wandb

from lightning_adv2.report.wandb.keys import has_key
from report.runs import KEY


@pytest.mark.parametrize(("host", "known"), [("api.wandb.ai", True), ("example.org", False)])
def test_a_login_for_the_earlier_host_is_one(
    host: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"machine {host} login user password {KEY}\n")
    path.chmod(0o600)
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(path))
    wandb.teardown()
    assert has_key() is known
