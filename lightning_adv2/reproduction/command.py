"""``lightning-adv2 reproduce``: run what is missing, then one report of every table and figure."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lightning_adv2.files import write_json
from lightning_adv2.report.html.writing import write_page
from lightning_adv2.report.page import Section
from lightning_adv2.report.table import ALERT, FAINT, STRONG, Table, text_table
from lightning_adv2.report.terminal import show
from lightning_adv2.reproduction.cells import as_json
from lightning_adv2.reproduction.cost import cost_section
from lightning_adv2.reproduction.execute import error_of, execute
from lightning_adv2.reproduction.items import ITEMS, Item, Shown, show_item
from lightning_adv2.reproduction.jobs import Job, jobs_of
from lightning_adv2.reproduction.observations import Verdict, verdicts
from lightning_adv2.reproduction.plan import PAPER_IMAGES, ROLES, Plan, chosen, read_plan
from lightning_adv2.results.stamp import make_stamp


def main(options: Namespace) -> None:
    """Run and report; exits with 1 where a run failed, when the rest is reported.

    Args:
        options: of :func:`lightning_adv2.cli.options.reproduce`.
    """
    console = Console()
    try:
        plan = _plan(options)
        items = chosen_items(options.tables)
        roles = None if options.tables is None else {role for item in items for role in item.roles}
        jobs = jobs_of(plan, chosen(plan, roles))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    if options.dry_run:
        _print_jobs(jobs, items, plan, console)
        return
    whole = execute(jobs, options.jobs, console, group=plan.output.name)
    path = report(plan, items, jobs, console)
    console.print(f"report: [bold]{path}[/] (opens in a browser, without a network)")
    if not whole:
        failed = "\n".join(f"  {job.name}: {error_of(job)}; see {job.log}" for job in jobs if job.state == "failed")
        raise SystemExit(f"runs failed, and what comes after them is left out:\n{failed}\nThe same command goes on.")


def _plan(options: Namespace) -> Plan:
    plan = read_plan(options.config)
    if options.paper_scale:
        # No run is spared: what is too dear for a quick look is what the flag is for.
        runs = {name: replace(run, num_images=None) for name, run in plan.runs.items()}
        plan = replace(plan, runs=runs, num_images=PAPER_IMAGES, paper_schedule=True)
        plan = replace(plan, output=plan.output.with_name(f"{plan.output.name}_paper"))
    return replace(
        plan,
        output=options.output or plan.output,
        num_images=options.num_images or plan.num_images,
        seeds=tuple(options.seeds or plan.seeds),
    )


def chosen_items(keys: Sequence[str] | None) -> list[Item]:
    """The items with these keys, in the report's order; None is all.

    Raises:
        ValueError: there is no such item.
    """
    known = {item.key: item for item in ITEMS}
    if keys is not None and (unknown := [key for key in keys if key not in known]):
        raise ValueError(f"tables={','.join(keys)}: there is no table {unknown[0]!r}; take some of {', '.join(known)}")
    return [item for item in ITEMS if keys is None or item.key in keys]


def report(plan: Plan, items: Sequence[Item], jobs: Sequence[Job], console: Console) -> Path:
    """Print the tables, write ``report.html`` and ``reproduction.json``; a pure function of the finished runs.

    Args:
        plan: whose runs to read.
        items: what to show.
        jobs: what was run, for the account of the time.
        console: for the tables.
    """
    parts = {item.key: show_item(plan, item, plan.output / "figures") for item in items}
    for block in (block for part in parts.values() for block in part.section.blocks):
        if isinstance(block, Table):
            show(block, console)
    decided = verdicts({key: part.rows for key, part in parts.items() if part.rows}, parts)
    first = []
    if decided:
        table = observations_table(decided)
        show(table, console)
        first = [Section("The paper's observations", _in_words(decided), [table])]
    stamp = make_stamp(plan=plan.title, num_images=plan.num_images, seeds=list(plan.seeds))
    write_json(plan.output / "reproduction.json", _as_json(parts, decided) | {"stamp": stamp})
    lead = (
        f"{plan.title}: up to {plan.num_images} images a cell, seeds {', '.join(map(str, plan.seeds))}, "
        f"{'published' if plan.paper_schedule else 'fast'} schedules. The paper: 1,000 ImageNet images, ResNet-50 and "
        "DenseNet-169, epsilon 0.031."
    )
    stamped = [(key, str(value)) for key, value in stamp.items()]
    last = Section("What made these figures", "", [text_table("Stamp", ("", ""), stamped)])
    everything = [*first, *(part.section for part in parts.values()), cost_section(plan, jobs), last]
    return write_page(plan.output / "report.html", f"Reproduction: {plan.title}", everything, lead)


_EMPHASIS = {"held": STRONG, "not held": ALERT, "not tested": FAINT}


def observations_table(decided: Sequence[Verdict]) -> Table:
    """Each observation with its rule, its verdict and the evidence."""
    body = [
        (one.observation.number, one.observation.claim, one.verdict, one.observation.rule, one.evidence)
        for one in decided
    ]
    note = "Every rule takes the paper's own figures; one finding against an observation is enough for 'not held'."
    table = text_table("Observations", ("no.", "claim", "verdict", "rule", "evidence"), body, note)
    return replace(table, emphasis=lambda row: _EMPHASIS[row["2"]])


def _in_words(decided: Sequence[Verdict]) -> str:
    count = {name: sum(one.verdict == name for one in decided) for name in ("held", "not held", "not tested")}
    return f"{count['held']} held, {count['not held']} not held, {count['not tested']} not tested."


def _as_json(parts: Mapping[str, Shown], decided: Sequence[Verdict]) -> dict[str, object]:
    return {
        "tables": {key: as_json(part.rows) for key, part in parts.items() if part.rows},
        "studies": {key: part.studies for key, part in parts.items() if part.studies},
        "observations": [
            {"number": one.observation.number, "claim": one.observation.claim, "rule": one.observation.rule,
             "verdict": one.verdict, "evidence": one.evidence}
            for one in decided
        ],
    }  # fmt: skip


def _print_jobs(jobs: Sequence[Job], items: Sequence[Item], plan: Plan, console: Console) -> None:
    rows = []
    for job in jobs:
        data = job.config.get("data", {}).get("init_args", {}) if job.run.command == "test" else {}
        state = "finished" if job.is_done() else "to do"
        images = str(data.get("num_images", ""))
        rows.append((job.name, ROLES[job.role], images, state, " + ".join(job.run.config)))
    titles = [(item.key, item.title, ", ".join(item.roles)) for item in items]
    show(text_table("Tables of the report", ("--tables", "shows", "runs for"), titles), console)
    show(text_table(plan.title, ("run", "what for", "images", "state", "configuration"), rows, "", {"images"}), console)
