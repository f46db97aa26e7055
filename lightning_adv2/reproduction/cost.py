"""What took how long, and what the paper's scale would take on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_adv2.files import read_json
from lightning_adv2.report.page import Block, Section
from lightning_adv2.report.table import text_table
from lightning_adv2.reproduction.jobs import Job
from lightning_adv2.reproduction.plan import PAPER_IMAGES, Plan
from lightning_adv2.reproduction.published import PAPER_STEPS
from lightning_adv2.results.records import record_key


def cost_section(plan: Plan, jobs: Sequence[Job]) -> Section:
    """Seconds of each run, and of each attack per image and step."""
    runs = [(job.name, job.state, _clock(job)) for job in jobs]
    blocks: list[Block] = [
        text_table("Runs", ("run", "state", "took"), runs, "'kept': finished by an earlier call, in so much time.")
    ]
    evaluations = [job for job in jobs if job.run.command == "test" and job.role != "curves"]  # which vary the steps
    estimates = [row for job in evaluations for row in _estimates(job)]
    hours = sum(float(row[-1]) for row in estimates)
    note = (
        f"Seconds on this machine as it was, times {PAPER_IMAGES:,} images and the published number of "
        f"steps; all together {hours:,.1f} hours on as many processes as above."
    )
    columns = (
        "run",
        "interpreter",
        "attack",
        "images",
        "steps",
        "s per image",
        "published steps",
        "hours at the paper's scale",
    )
    if estimates:
        blocks.append(text_table("Extrapolation to the paper's scale", columns, estimates, note, set(columns[3:])))
    return Section("What it took", "", blocks)


def _clock(job: Job) -> str:
    seconds = job.seconds
    if not seconds:
        try:
            seconds = float(read_json(job.done_file)["seconds"])
        except (OSError, ValueError, KeyError):
            return ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _estimates(job: Job) -> Iterator[tuple[str, ...]]:
    try:
        stamp = read_json(job.folder / "stamp.json")
        rows = read_json(job.folder / "results.json")["rows"]
    except (OSError, ValueError):
        return
    for row in rows:
        alone = row["role"] == "class"  # it ignores the map, and ran once for all interpreters
        kind = "stadv" if row["threat_model"] == "spatial" else "pgd" if alone else row["interpreter"]
        published = PAPER_STEPS.get(kind)
        if row["role"] == "control" or not row["n"] or not row["steps"] or published is None:
            continue
        if alone and row["interpreter"] != rows[0]["interpreter"]:
            continue
        seconds = stamp["seconds"][row["interpreter"]][record_key(row["attack"], row["schedule"])] / row["n"]
        hours = seconds / (row["mean_steps"] or row["steps"]) * published * PAPER_IMAGES / 3600
        name = "any" if alone else row["interpreter"]
        yield (job.name, name, row["attack"], str(row["n"]), str(row["steps"]), f"{seconds:.2f}", str(published),
               f"{hours:.1f}")  # fmt: skip
