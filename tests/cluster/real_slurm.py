"""SLURM itself, Debian's: a controller and one node on this machine, in one folder, reached from this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster.cluster_lab import CLUSTER, environment, text_of

DAEMONS = ("munged", "slurmctld", "slurmd")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
CONFIGURATION = """
ClusterName=adv2
FirstJobId={first}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str | None:
    """Why there can be no SLURM here, or None."""
    missing = [name for name in (*DAEMONS, "sbatch", "srun", "scontrol") if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no SLURM here ({', '.join(missing)} not found): apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Slurm:
    """A cluster of one node with 8 processors, whatever this machine has.

    Args:
        folder: where its daemons keep everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start its daemons, and return when the node takes jobs."""
        host = socket.gethostname().split(".")[0]
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(parents=True)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        controller, node = _free_ports()
        # Lightning makes a run's port of its job's number: clusters beside each other must not count alike.
        first = 1000 + os.getpid() % 8000
        text = CONFIGURATION.format(host=host, folder=self.folder, controller=controller, node=node, first=first)
        (self.folder / "slurm.conf").write_text(text)
        named = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{name}={munge / file}" for name, file in named.items()))
        self.wait_until(lambda: (munge / "socket").exists(), 30)
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-c")
        self.wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), 60)

    def _daemon(self, *command: str) -> None:
        environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}
        with (self.folder / "daemons.txt").open("ab") as stream:
            daemon = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        self._daemons.append(daemon)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        self.end_jobs()
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def end_jobs(self) -> None:
        """Cancel what is queued or running, and return when nothing of it is left."""
        if any(daemon.poll() is not None for daemon in self._daemons) or not self._daemons:
            return
        if jobs := self.ask("squeue", "-h", "-o", "%A").split():
            self.ask("scancel", "--signal=KILL", *jobs)
            self.ask("scancel", *jobs)
            self.wait_until(lambda: not self.ask("squeue", "-h", "-o", "%A"), 60)

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    def submit(self, folder: Path, template: str, *words: object, options: tuple[str, ...], **variables: object) -> str:
        """Submit one of our batch files from ``folder``; returns the job's number."""
        folder.mkdir(parents=True, exist_ok=True)
        shell = environment(folder, SLURM_CONF=self.folder / "slurm.conf", **variables)
        done = subprocess.run(
            ["sbatch", "--parsable", *options, CLUSTER / template, *map(str, words)],
            cwd=folder, env=shell, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def describe(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says: ``JobState``, ``ExitCode``, ``Restarts`` and more."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "show", "job", "-o", job)))

    def wait(self, job: str, folder: Path, seconds: int = 240) -> str:
        """The state in which a job ended."""
        self.wait_until(lambda: self.describe(job).get("JobState") in OVER, seconds, folder)
        return self.describe(job)["JobState"]

    def queued_again(self, job: str, folder: Path, seconds: int = 90) -> None:
        """Wait for a requeue, and spare the test the two minutes that SLURM then lets pass."""
        self.wait_until(lambda: self.describe(job).get("Restarts") == "1", seconds, folder)
        self.wait_until(lambda: self.describe(job).get("JobState") != "COMPLETING", seconds, folder)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def processes(self, job: str) -> list[int]:
        """The tasks of a job's steps, by their numbers."""
        # Another cluster on this machine numbers its jobs from 1, too.
        own = {b"SLURM_JOB_ID": job.encode(), b"SLURM_CONF": bytes(self.folder / "slurm.conf")}
        found = {}
        for place in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                words = place.read_bytes().split(b"\0")
                variables = dict(word.split(b"=", 1) for word in words if b"=" in word)
                program = (place.parent / "cmdline").read_bytes()
                task = b"lightning-adv2" in program and b"srun" not in program
                if task and own.items() <= variables.items() and b"SLURM_STEP_ID" in variables:
                    found.setdefault(int(variables[b"SLURM_PROCID"]), int(place.parent.name))
        return [found[rank] for rank in sorted(found)]

    def wait_until(self, happened: Callable[[], object], seconds: int, folder: Path | None = None) -> None:
        """Poll; fail with what jobs and daemons wrote when time runs out."""
        end = time.monotonic() + seconds
        while not happened():
            logs = [self.folder / name for name in ("daemons.txt", "slurmctld.log", "slurmd.log")]
            if time.monotonic() > end:
                said = "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
                raise AssertionError(f"not in {seconds} s:\n{text_of(folder) if folder else ''}\n{said}")
            time.sleep(0.2)


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for end in (one, other):
            end.bind(("127.0.0.1", 0))
        return [end.getsockname()[1] for end in (one, other)]
