"""Enough of SLURM to run a batch file on this machine: sbatch, srun, scontrol requeue, scancel --signal.

What scripts trip over is here: the batch file runs from a copy in a spool folder; a signal goes to the processes of the
step and not to the batch shell, to each one's whole process group; a requeue kills the job at once (SIGCONT, SIGTERM,
some seconds later SIGKILL) and starts the file again under the same job id; an option that sbatch or srun does not know
is an error. Nodes are all this machine. The state is a folder, ``FAKE_SLURM``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STATE = Path(os.environ.get("FAKE_SLURM", "."))
KILL_WAIT = float(os.environ.get("FAKE_SLURM_KILL_WAIT", "10"))  # KillWait of slurm.conf, where it is 30
BINARIES = ("sbatch", "srun", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Put the four commands into ``folder`` and return it, for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in BINARIES:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {name} "$@"\n')
        command.chmod(0o755)
    return folder


def batch_options() -> argparse.ArgumentParser:
    """Of sbatch: those that our files use; exact names only, as a typing error must be one."""
    parser = argparse.ArgumentParser(prog="sbatch", allow_abbrev=False)
    for name in ("job-name", "output", "time", "signal", "array", "open-mode"):
        parser.add_argument(f"--{name}")
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--requeue", action="store_true")
    parser.add_argument("script", nargs="?", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def directives(script: Path) -> list[str]:
    """The options in a batch file, which end at its first command."""
    words = []
    lines = script.read_text().splitlines()
    if not lines or not lines[0].startswith("#!"):
        raise SystemExit("sbatch: error: This does not look like a batch script.")
    for line in lines:
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.startswith("#"):
            break
    return words


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def tell(job: Path, number: int) -> None:
    """Send a signal to the process groups of the running step."""
    with suppress(FileNotFoundError):
        for pid in json.loads((job / "step.json").read_text()):
            with suppress(ProcessLookupError):
                os.killpg(pid, number)


def run_job(options: argparse.Namespace, job_id: int, array: tuple[int, int] | None) -> int:
    """Run a batch file until it is over and not in the queue again; returns its exit code."""
    name = str(job_id) if array is None else f"{array[0]}_{array[1]}"
    job = STATE / name
    job.mkdir(parents=True)
    spooled = Path(shutil.copy(options.script, job / "slurm_script"))
    nodes, per_node = options.nodes or 1, options.ntasks_per_node or 1
    variables = os.environ | {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_NAME": options.job_name or options.script.name,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_NODELIST": "127.0.0.1",
        "FAKE_SLURM_JOB": str(job),
    }
    if options.cpus_per_task:
        variables["SLURM_CPUS_PER_TASK"] = str(options.cpus_per_task)
    output = options.output or ("slurm-%j.out" if array is None else "slurm-%A_%a.out")
    replaced = {"%x": variables["SLURM_JOB_NAME"], "%j": str(job_id)}
    if array is not None:
        variables |= {"SLURM_ARRAY_JOB_ID": str(array[0]), "SLURM_ARRAY_TASK_ID": str(array[1])}
        replaced |= {"%A": str(array[0]), "%a": str(array[1])}
    for pattern, value in replaced.items():
        output = output.replace(pattern, value)
    for restarts in range(100):
        if restarts:
            variables["SLURM_RESTART_COUNT"] = str(restarts)
        (job / "requeue").unlink(missing_ok=True)
        with Path(output).open("ab" if options.open_mode == "append" else "wb") as stream:
            batch = subprocess.Popen(
                ["bash", spooled, *options.words],
                env=variables, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
            while batch.poll() is None and not (job / "requeue").exists():
                time.sleep(0.05)
            if not (job / "requeue").exists():
                return batch.returncode
            tell(job, signal.SIGCONT)
            tell(job, signal.SIGTERM)
            if batch.poll() is None:
                os.killpg(batch.pid, signal.SIGTERM)
            end = time.monotonic() + KILL_WAIT
            pids = json.loads((job / "step.json").read_text()) if (job / "step.json").exists() else []
            while time.monotonic() < end and (batch.poll() is None or any(map(alive, pids))):
                time.sleep(0.05)
            tell(job, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(batch.pid, signal.SIGKILL)
            batch.wait()
        if not options.requeue:
            return 1
    raise SystemExit("sbatch: 100 requeues, none the last")


def sbatch(words: list[str]) -> int:
    """Run at once and to the end, where the real one returns when the job is queued."""
    parser = batch_options()
    given = parser.parse_args(words)
    from_file = parser.parse_args(directives(given.script))
    options = argparse.Namespace(**{k: v or getattr(given, k) for k, v in vars(from_file).items()})
    for key, value in vars(given).items():  # the command line goes before the file
        if value not in (None, False):
            setattr(options, key, value)
    STATE.mkdir(parents=True, exist_ok=True)
    job_id = 4000 + len(list(STATE.iterdir()))
    print(f"Submitted batch job {job_id}", flush=True)
    if options.array is None:
        return run_job(options, job_id, None)
    first, _, last = options.array.split("%")[0].partition("-")
    tasks = range(int(first), int(last or first) + 1)
    return max(run_job(options, job_id + k, (job_id, task)) for k, task in enumerate(tasks))


def srun(words: list[str]) -> int:
    """Start the step's processes, pass signals on to them, and return the highest exit code."""
    parser = argparse.ArgumentParser(prog="srun", allow_abbrev=False)
    for option in ("--ntasks", "--ntasks-per-node", "--kill-on-bad-exit"):
        parser.add_argument(option, type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    nodes, per_node = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    job = Path(os.environ["FAKE_SLURM_JOB"])
    tasks: list[subprocess.Popen[bytes]] = []
    for rank in range(nodes * per_node):
        own = {
            "SLURM_NTASKS": str(nodes * per_node),
            "SLURM_PROCID": str(rank),
            "SLURM_NODEID": str(rank // per_node),
            "SLURM_LOCALID": str(rank % per_node),
            "SLURM_STEP_ID": "0",
        }
        tasks.append(subprocess.Popen(options.command, env=os.environ | own, start_new_session=True))
    step = job / "step.json"
    step.with_suffix(".tmp").write_text(json.dumps([task.pid for task in tasks]))
    step.with_suffix(".tmp").replace(step)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda caught, _: tell(job, caught))
    bad = False
    while any(task.poll() is None for task in tasks):
        if options.kill_on_bad_exit and not bad and any(task.returncode for task in tasks):
            bad = True
            time.sleep(1)  # it takes a moment over the network
            tell(job, signal.SIGKILL)
        time.sleep(0.05)
    step.unlink()
    return max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks))


def scontrol(words: list[str]) -> int:
    """``scontrol requeue JOB``: note it; the job's sbatch does the rest."""
    if len(words) != 2 or words[0] != "requeue" or not (STATE / words[1] / "slurm_script").exists():
        print("Invalid job id specified for job " + " ".join(words), file=sys.stderr)
        return 1
    with (STATE / "requeues").open("a") as stream:
        stream.write(words[1] + "\n")
    (STATE / words[1] / "requeue").touch()
    return 0


def scancel(words: list[str]) -> int:
    """``scancel --signal=USR1 JOB``: to the step, not to the batch shell."""
    parser = argparse.ArgumentParser(prog="scancel", allow_abbrev=False)
    parser.add_argument("--signal", required=True)
    parser.add_argument("job")
    options = parser.parse_args(words)
    tell(STATE / options.job, signal.Signals[f"SIG{options.signal}"])
    return 0


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel}
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
