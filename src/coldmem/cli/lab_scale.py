"""``coldmem lab scale``: the locks over 1 to 256 cores, simulated; calibration and validation."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.lab_locks import check_plot
from coldmem.cli.options import SeveralValues, json_option
from coldmem.errors import EnvironmentFailure
from coldmem.lab import scale
from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result, Row
from coldmem.lab.scale_calibrate import Effort, calibrate
from coldmem.lab.scale_model import LABELS, MODEL_ARMS, WORKLOADS, Calibration, base_arm
from coldmem.lab.scale_validate import ERROR_GOAL, TRIES_MAX, validate
from coldmem.lab.workloads import SAMPLE_UNITS, material

DEFAULT_FILE = Path("scale_calibration.json")


@click.command("scale", cls=SeveralValues)
@click.option("--cores", type=click.IntRange(1, scale.CORES_MAX), multiple=True, default=scale.CORES,
              show_default=True, help="Cores, with a thread on each; several values make several rows.")
@click.option("--arm", "--arms", "arms", type=click.Choice(MODEL_ARMS), multiple=True,
              default=MODEL_ARMS, help="Which ways of locking. Default: all.")
@click.option("--workload", "workloads", type=click.Choice(WORKLOADS), multiple=True,
              default=("alloc",), show_default=True,
              help="What the threads do; build: the mix of a recorded trace.")
@click.option("--calibrate", "only_calibrate", is_flag=True,
              help="Measure what the model needs, write it into --calibration, and end.")
@click.option("--calibration", "file", type=click.Path(dir_okay=False, path_type=Path),
              help="A calibration: read, or written with --calibrate "
                   f"(then {DEFAULT_FILE} by default). Without one this machine is calibrated first.")
@click.option("--validate", "validating", is_flag=True,
              help="Measure too, and set what was predicted beside it.")
@click.option("--threads", type=click.IntRange(1, 256), multiple=True, default=(1, 2),
              show_default=True, help="Threads of --validate; more than CPUs take turns.")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True,
              help="Runs of each measurement; the median counts.")
@click.option("--objects", type=click.IntRange(16), default=Effort.objects, show_default=True,
              help="Objects alive per core, in calibration.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=Effort.seconds,
              show_default=True, help="Length of one run of the calibration.")
@click.option("--ops", type=click.IntRange(16), default=60_000, show_default=True,
              help="Operations simulated per row, at least.")
@click.option("--units", type=click.IntRange(16), default=SAMPLE_UNITS, show_default=True,
              help="Units of this machine's data to take sizes from.")
@click.option("--kernel/--no-kernel", default=True, show_default=True,
              help="The kernel's table and what the model makes of it.")
@click.option("--memory/--no-memory", default=True, show_default=True,
              help="Open the pools and measure what they use.")
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path),
              help="A recorded trace for the workload build.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path),
              help="Draw the result into this file (.png, .svg or .pdf).")
@json_option
def command(
    cores: tuple[int, ...], arms: tuple[str, ...], workloads: tuple[str, ...], only_calibrate: bool,
    file: Path | None, validating: bool, threads: tuple[int, ...], repeats: int, objects: int,
    seconds: float, ops: int, units: int, kernel: bool, memory: bool, trace: Path | None,
    plot: Path | None, as_json: bool,
) -> None:
    """Throughput over cores of each way of locking, simulated from what this machine measures.

    A calibration takes about two minutes; on a machine that others use, longer.
    """
    if plot is not None:
        check_plot(plot)
    real = tuple(dict.fromkeys(base_arm(name).name for name in arms))
    populations = sorted({1, 2, *(threads if validating else ()), max(cores), *(
        n for n in (8, 32) if n <= max(cores))})
    effort = Effort.of(seconds, repeats, objects=objects, populations=populations, arms=real)
    with output.progress() as report:
        needed = only_calibrate or file is None or validating or memory
        if needed:
            report("reading units of this machine's data")
        stuff = material(units) if needed else None
        if only_calibrate or file is None:
            assert stuff is not None
            made = calibrate(stuff, effort, report)
            if only_calibrate:
                _write(file or DEFAULT_FILE, made)
                if as_json:
                    output.print_json(made)
                else:
                    show_calibration(made, output.console())
                return
            calibration = Calibration(json.loads(made.to_json()))
        else:
            calibration = Calibration.load(file)
        plan = scale.Plan(cores, arms, workloads, ops, kernel_ops=max(16, 3 * ops) if kernel else 0,
                          memory=memory, trace=trace)
        result = scale.run(calibration, plan, stuff, report)
        if validating:
            assert stuff is not None
            for workload in workloads:
                if workload in ("alloc", "compact"):
                    result.rows += validate(calibration, real, threads, stuff, repeats=repeats,
                                            seconds=2 * seconds, ops=max(ops, 16),
                                            tries=min(TRIES_MAX, effort.tries), workload=workload,
                                            report=report)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())
    if plot is not None:
        from coldmem.lab.scale_plot import draw

        draw(result, plot)
        click.echo(f"drawn: {plot}", err=True)


def _write(path: Path, made: Result) -> None:
    try:
        path.write_text(made.to_json() + "\n")
    except OSError as error:
        raise EnvironmentFailure(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"written: {path}", err=True)


def show_calibration(result: Result, screen: Console) -> None:
    """What was measured, and how."""
    made = output.table("What locks and threads cost", ["", "ns", "min .. max", "how"], left=1)
    for row in result.rows:
        if row["kind"] == "primitive":
            made.add_row(str(row["name"]), output.number(row["ns"]),
                         f"{output.number(row['ns_min'])} .. {output.number(row['ns_max'])}",
                         str(row["how"]))
    screen.print(made)
    made = output.table("One thread, objects of so many cores",
                        ["", "cores", "ns per operation", "min .. max"])
    for row in result.rows:
        if row["kind"] == "arm":
            made.add_row(ARMS[str(row["name"])].label, str(row["population"]),
                         output.number(row["op_ns"]),
                         f"{output.number(row['op_ns_min'])} .. {output.number(row['op_ns_max'])}")
    screen.print(made)


def _of(result: Result, table: str) -> list[Row]:
    return [row for row in result.rows if row["part"] == table]


def show(result: Result, screen: Console) -> None:
    """Every table of the result."""
    for workload in dict.fromkeys(str(row["workload"]) for row in _of(result, "scale")):
        _show_scale(result, workload, screen)
    _show_validation(result, screen)
    _show_memory(result, screen)
    _show_kernel(result, screen)


def _show_scale(result: Result, workload: str, screen: Console) -> None:
    rows = [row for row in _of(result, "scale") if row["workload"] == workload]
    counts = sorted({int(str(row["cores"])) for row in rows})
    made = output.table(f"{workload}: million operations per second over cores, simulated",
                        ["", *map(str, counts), "full at", "lock", "held"])
    cells = {(row["arm"], row["cores"]): row for row in rows}
    for full in _of(result, "saturation"):
        if full["workload"] == workload:
            name = full["arm"]
            made.add_row(LABELS[str(name)],
                         *(output.number(cells[name, n]["mops_per_s"]) for n in counts),
                         output.number(full["saturates_at_cores"]), str(full["lock"] or "-"),
                         output.percent(full["lock_use"]))
    screen.print(made)
    worst = max((float(str(row["noise"])) for row in rows), default=0.0)
    screen.print(f"Full: twice the cores add less than {output.percent(scale.GROWTH_MIN)}. Noise of the "
                 f"simulation: {100 * worst:.2f} % at most.", style="dim")
    screen.print()


def _show_validation(result: Result, screen: Console) -> None:
    rows = _of(result, "validation")
    if not rows:
        return
    made = output.table(f"Predicted and measured (goal: within {output.percent(ERROR_GOAL)})",
                        ["", "workload", "threads", "measured", "predicted", "error", "min .. max", ""],
                        left=2)
    for row in rows:
        made.add_row(ARMS[str(row["arm"])].label, str(row["workload"]), str(row["threads"]),
                     output.number(row["measured_mops_per_s"]),
                     output.number(row["predicted_mops_per_s"]), output.percent(row["error"]),
                     f"{output.percent(row['error_min'])} .. {output.percent(row['error_max'])}",
                     "[green]met[/]" if row["within_goal"] else "[red]missed[/]")
    screen.print(made)
    screen.print()


def _show_memory(result: Result, screen: Console) -> None:
    rows = _of(result, "memory")
    if not rows:
        return
    counts = sorted({int(str(row["cores"])) for row in rows})
    made = output.table("Memory used per byte stored, with the objects of so many cores; measured",
                        ["", *map(str, counts), "MiB wasted with most"])
    for name in dict.fromkeys(str(row["arm"]) for row in rows):
        mine = {row["cores"]: row for row in rows if row["arm"] == name}
        made.add_row(LABELS[name], *(f"{mine[n]['fragmentation']:.3f}" for n in counts),
                     output.number(int(str(mine[counts[-1]]["wasted_bytes"])) / 2**20))
    screen.print(made)
    screen.print()


def _show_kernel(result: Result, screen: Console) -> None:
    rows = _of(result, "kernel")
    if not rows:
        return
    made = output.table("System time of the kernel's build, by its patch and by the model",
                        ["", "sys s", "over 32 pools", "model: sys s", "over 32 pools"])
    for row in rows:
        made.add_row(LABELS[str(row["arm"])], f"{row['kernel_sys_s']:.2f}",
                     output.percent(row["kernel_sys_added"]), f"{row['model_sys_s']:.0f}",
                     output.percent(row["model_sys_added"]))
    screen.print(made)
    made = output.table("The same with other assumptions",
                        ["holds x", "free / malloc", "held", "line ns", "one lock", "class locks", ""],
                        left=0)
    for row in _of(result, "kernel_sensitivity"):
        made.add_row(*(output.number(row[key]) for key in
                       ("hold_factor", "free_of_malloc", "held", "line_ns")),
                     output.percent(row["pool_sys_added"]), output.percent(row["class_sys_added"]),
                     "holds fitted to +27 %" if row["fitted"] else "")
    screen.print(made)
