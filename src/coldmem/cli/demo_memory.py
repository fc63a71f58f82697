"""The job of `coldmem.lab.memory_job` on the screen: live progress, then a short table."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from coldmem.cli import output
from coldmem.errors import ColdmemError
from coldmem.lab.memory_job import STEPS, JobOutcome, MemoryJob, MemoryPlan
from coldmem.lab.result import Row, rounded
from coldmem.units import format_bytes

MB = 1e6
EVERY_S = 0.1
PLAIN_EVERY_S = 1.0  # a line of progress, where there is no terminal
BAR = 44
COLOURS = {"hot": "green", "compressed": "yellow", "on disk": "blue"}


def run(plan: MemoryPlan) -> JobOutcome:
    """Run the job in a thread of its own, and show where the data is all along."""
    job = MemoryJob(plan)
    outcome: list[JobOutcome] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(job.run())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="demo", daemon=True)
    thread.start()
    _watch(job, thread)
    if errors:
        raise errors[0]
    return outcome[0]


def _watch(job: MemoryJob, thread: threading.Thread) -> None:
    screen = Console(file=sys.stderr, highlight=False)
    if not screen.is_terminal:
        _plain_lines(job, thread)
        return
    with Live(console=screen, refresh_per_second=10, transient=True) as live:
        while thread.is_alive():
            thread.join(EVERY_S)
            now = _now(job)
            if now:
                live.update(_picture(job, now))


def _plain_lines(job: MemoryJob, thread: threading.Thread) -> None:
    """A line when a step is done, and now and then while it is not."""
    said, last_s = 0, time.monotonic()
    while thread.is_alive() or said < len(job.steps):
        thread.join(EVERY_S)
        for step in job.steps[said:]:
            said += 1
            print(f"{said}/{STEPS} {step.name}: {_line(step.stats)}", file=sys.stderr, flush=True)
            last_s = time.monotonic()
        if time.monotonic() - last_s > PLAIN_EVERY_S and said < STEPS:
            last_s = time.monotonic()
            now = _now(job)
            if now:
                print(f"{said + 1}/{STEPS} {job.step} ...: {_line(now)}", file=sys.stderr, flush=True)


def _now(job: MemoryJob) -> dict[str, Any] | None:
    try:
        return job.memory.stats()
    except ColdmemError:  # it was closed a moment ago
        return None


def _line(now: dict[str, Any]) -> str:
    return (
        f"arrays of {format_bytes(now['array_bytes'])} in {format_bytes(now['memory_max_bytes'])}; "
        f"hot {format_bytes(now['hot_bytes'])}, compressed {format_bytes(now['compressed_bytes'])}, "
        f"on disk {format_bytes(now['swap_bytes'])}"
    )


def _picture(job: MemoryJob, now: dict[str, Any]) -> Table:
    """One bar for each place where data can be; a full bar is the limit."""
    limit = now["memory_max_bytes"]
    made = Table.grid(padding=(0, 2))
    made.add_column(width=12)
    made.add_column(width=BAR)
    made.add_column(justify="right")
    step = min(len(job.steps) + 1, STEPS)
    made.add_row("[bold]NumPy", f"[bold]{step}/{STEPS} {job.step}", "")
    made.add_row("arrays", f"{format_bytes(now['array_bytes'])} in a Memory of {format_bytes(limit)}",
                 f"{now['array_bytes'] / limit:.1f} x")
    for name, key in (("hot", "hot_bytes"), ("compressed", "compressed_bytes"),
                      ("on disk", "swap_bytes")):
        filled = min(round(BAR * now[key] / limit), BAR)
        bar = f"[{COLOURS[name]}]{'█' * filled}[/][dim]{'·' * (BAR - filled)}[/]"
        made.add_row(name, bar, format_bytes(now[key]))
    return made


def show(plan: MemoryPlan, found: JobOutcome, screen: Console) -> None:
    """The table at the end."""
    stats = found.stats
    made = output.table(
        f"NumPy on {format_bytes(found.array_bytes_peak)} of arrays in "
        f"{format_bytes(plan.memory_max_bytes)} (delivery {stats['delivery']})",
        ["step", "data", "seconds", "MB/s", "then hot", "compressed", "on disk", ""],
    )
    for step in found.steps:
        made.add_row(
            step.name, format_bytes(step.bytes_touched), f"{step.seconds:.2f}",
            f"{step.bytes_touched / MB / max(step.seconds, 1e-9):.0f}",
            *(format_bytes(step.stats[k]) for k in ("hot_bytes", "compressed_bytes", "swap_bytes")),
            "" if not step.name.startswith("check") else
            ("[red]differs[/]" if step.differences else "[green]equal[/]"),
        )
    screen.print(made)
    screen.print(
        f"footprint: {format_bytes(stats['footprint_peak_bytes'])} at its peak, "
        f"{format_bytes(stats['memory_max_bytes'])} allowed; {stats['faults']:,} faults, "
        f"{stats['compressed']:,} units compressed, {stats['loads']:,} brought back"
    )
    if not found.differences:
        screen.print("[green]every result is that of plain NumPy, block by block[/]")


def complain(found: JobOutcome) -> None:
    """What came out wrong, on stderr."""
    for line in found.differences:
        print(f"coldmem: wrong: {line}", file=sys.stderr)


def rows(found: JobOutcome) -> list[Row]:
    """For ``--json``."""
    steps: list[Row] = [
        {"part": "memory", "step": step.name, "bytes": step.bytes_touched,
         "seconds": rounded(step.seconds), "differences": len(step.differences),
         **{k: step.stats[k] for k in ("hot_bytes", "compressed_bytes", "swap_bytes")}}
        for step in found.steps
    ]
    keys = ("delivery", "memory_max_bytes", "footprint_peak_bytes", "faults", "loads", "compressed")
    return [*steps, {"part": "memory", "step": "all", "array_bytes_peak": found.array_bytes_peak,
                     "differences": len(found.differences), **{k: found.stats[k] for k in keys}}]
