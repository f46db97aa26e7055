"""torchrun, on one node and over two network namespaces that only a cable joins, against one plain process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster_lab import CLUSTER, children, evaluation, records, start, text_of, undisturbed, wait_until

pytestmark = pytest.mark.slow
SCRIPT = CLUSTER / "torchrun.sh"
COMPARED = ("results.json", "images.csv", "manifest.json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The configuration and the run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    config = evaluation(folder, steps=40)
    return config, undisturbed(config, folder / "run")


def compare(run: Path, alone: Path) -> None:
    for name in COMPARED:
        assert (run / name).read_bytes() == (alone / name).read_bytes(), name


def test_promise_2_two_processes_of_torchrun(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    words = ["bash", SCRIPT, "test", "--config", config, "--trainer.default_root_dir", tmp_path / "run"]
    process = start(words, tmp_path, PROCESSES=2)
    assert process.wait(240) == 0, text_of(tmp_path)
    compare(tmp_path / "run", expected)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_promise_1_torchrun_starts_again_after_a_kill(rank: int, alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    run = tmp_path / "run"
    words = ["bash", SCRIPT, "test", "--config", config, "--trainer.default_root_dir", run]
    process = start(words, tmp_path, PROCESSES=2, RESTARTS=1, TORCH_ELASTIC_SHUTDOWN_TIMEOUT=20)
    wait_until(lambda: len(records(run)) >= 2, process, tmp_path)
    kept = records(run)
    os.kill(children(process.pid)[rank], signal.SIGKILL)
    assert process.wait(240) == 0, text_of(tmp_path)
    compare(run, expected)
    assert kept.items() <= records(run).items(), "a finished batch ran again"


@pytest.fixture
def cable() -> Iterator[list[str]]:
    """Two network namespaces and a veth pair between them: (namespace, address, interface) of each end."""
    names = [f"adv2-{os.getpid()}-{end}" for end in "ab"]
    ends = [f"adv2{os.getpid() % 10**6}{end}" for end in "ab"]
    commands = [["netns", "add", name] for name in names]
    commands += [["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]]
    for k, (name, end) in enumerate(zip(names, ends, strict=True)):
        commands += [["link", "set", end, "netns", name]]
        commands += [["-n", name, "addr", "add", f"10.77.0.{k + 1}/24", "dev", end]]
        commands += [["-n", name, "link", "set", end, "up"], ["-n", name, "link", "set", "lo", "up"]]
    try:
        for command in commands:
            try:
                done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
            except OSError as error:
                pytest.skip(f"no ip command for network namespaces: {error}")
            if done.returncode:
                pytest.skip(f"network namespaces are not permitted here: {done.stderr.strip()}")
        yield [word for k in range(2) for word in (names[k], f"10.77.0.{k + 1}", ends[k])]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_promise_2_two_nodes_over_a_network(alone: tuple[Path, Path], tmp_path: Path, cable: list[str]) -> None:
    config, expected = alone
    run = tmp_path / "run"
    nodes = []
    for k, (namespace, address, interface) in enumerate((cable[:3], cable[3:])):
        words = ["ip", "netns", "exec", namespace, "bash", SCRIPT, "test", "--config", config]
        words += ["--trainer.default_root_dir", run]
        variables = {"NODES": 2, "NODE": k, "PROCESSES": 2, "HEAD": f"{cable[1]}:29431", "RESTARTS": 0}
        nodes.append(
            start(words, tmp_path / f"node{k}", **variables, ADDRESS=address, GLOO_SOCKET_IFNAME=interface)
        )  # fmt: skip
    for k, node in enumerate(nodes):
        assert node.wait(300) == 0, text_of(tmp_path / f"node{k}")
    compare(run, expected)
    assert len(records(run)) == 7
