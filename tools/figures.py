"""Write the README's table of figures from docs/results/*.json; ``--check`` only compares.

A figure in the README is thus always one that a command printed. Files: ``engine.json`` is what
``coldmem bench engine --json`` printed, ``locks.json`` what ``coldmem lab locks --json`` did,
``memory.json`` what ``coldmem bench memory --with-kernel --json`` did, ``build.json`` what
``coldmem lab build --json`` did, ``dask_*.json`` what ``coldmem bench dask --json`` did.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
README = ROOT / "README.md"
BEGIN = "<!-- figures: written by `make figures` from docs/results; do not edit -->"
END = "<!-- end of figures -->"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def machine_line(machine: dict[str, Any]) -> str:
    named = [("cpu_model", "{}"), ("cpus", "{} CPUs"), ("kernel", "Linux {}"),
             ("python", "Python {}")]
    return ", ".join(form.format(machine[key]) for key, form in named if machine.get(key))


def memory_cell(row: dict[str, Any] | None, kernel: list[dict[str, Any]]) -> str:
    if row is None:
        return ""
    text = f"{row['mb_per_s']:.0f}"
    if row in kernel or not kernel:
        return text
    best = max(kernel, key=lambda other: other["mb_per_s"])
    runs = zip(row["mb_per_s_runs"], best["mb_per_s_runs"], strict=True)
    return f"{text} ({statistics.median(a / b for a, b in runs):.1f})"


def memory(data: dict[str, Any]) -> list[str]:
    """MB/s of managed memory beside the kernel's, and how they compare."""
    region, limit = (data["settings"][f"{name}_bytes"] >> 20 for name in ("region", "limit"))
    out = [
        f"MB/s of a region of {region} MiB touched page by page, as much RAM as the kernel's zswap and"
        f" zram really take with a limit of {limit} MiB, and in brackets the median over repeats of the"
        f" ratio to the better of the two ({machine_line(data['machine'])}):", "",
        "| data | touches | threads | kernel zswap | kernel zram | coldmem, handler | coldmem, SIGBUS |",
        "|---|---|---|---|---|---|---|",
    ]
    places = [("kernel-zswap", "kernel"), ("kernel-zram", "kernel"), ("coldmem", "handler"),
              ("coldmem", "sigbus")]
    found: dict[tuple[Any, ...], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in data["rows"]:
        cell = found.setdefault((row["corpus"], row["workload"], row["threads"]), {})
        cell[row["system"], row["delivery"]] = row
    for (corpus, workload, threads), cell in found.items():
        kernel = [row for (system, _), row in cell.items() if system != "coldmem"]
        shown = " | ".join(memory_cell(cell.get(place), kernel) for place in places)
        out.append(f"| {corpus} | {workload} | {threads} | {shown} |")
    return [*out, ""]


def engine(data: dict[str, Any]) -> list[str]:
    """Overhead over the bare codec: the median over corpora, and the worst."""
    out = [
        f"Store + load + invalidate, against the bare codec on the same units in the same run"
        f" ({machine_line(data['machine'])}):", "",
        "| codec | unit | corpora | median of time / bare | worst |", "|---|---|---|---|---|",
    ]
    keys = sorted({(row["codec"], row["unit_bytes"]) for row in data["rows"]})
    for codec, unit in keys:
        ratios = [row["overhead_ratio"] for row in data["rows"]
                  if (row["codec"], row["unit_bytes"]) == (codec, unit)
                  and row["overhead_ratio"] is not None]
        if ratios:
            out.append(f"| {codec} | {unit // 1024}K | {len(ratios)} |"
                       f" {statistics.median(ratios):.3f} | {max(ratios):.3f} |")
    return [*out, ""]


def cell_text(row: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{row['mops_per_s']:.2f}"
    if base is None or row is base:
        return text
    runs = zip(row["mops_per_s_runs"], base["mops_per_s_runs"], strict=True)
    return f"{text} ({statistics.median(a / b for a, b in runs):.2f})"


def locks(data: dict[str, Any]) -> list[str]:
    """Operations per second by arm and threads, and how that compares with 32 pools."""
    out = [f"Millions of operations per second, and in brackets the median over repeats of the ratio"
           f" to 32 pools ({machine_line(data['machine'])}):", ""]
    rows = data["rows"]
    threads = sorted({row["threads"] for row in rows})
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    out += [f"| workload | codec | arm | {' | '.join(f'{t} threads' for t in threads)} |".replace(
                "| 1 threads", "| 1 thread"),
            "|---|---|---|" + "---|" * len(threads)]
    found = {(r["workload"], r["codec"], r["arm"], r["threads"]): r for r in rows}
    for workload, codec in dict.fromkeys((row["workload"], row["codec"]) for row in rows):
        for arm in arms:
            cells = [found.get((workload, codec, arm, t)) for t in threads]
            if any(cell is not None for cell in cells):
                bases = [found.get((workload, codec, "pools32", t)) for t in threads]
                shown = " | ".join(map(cell_text, cells, bases))
                out.append(f"| {workload} | {codec} | `{arm}` | {shown} |")
    return [*out, ""]


BUILD_SYSTEMS = {
    "none": "no limit", "zswap": "kernel zswap", "zram": "kernel zram", "swapfile": "swap file",
    "pools32": "coldmem, 32 pools", "pool": "coldmem, one pool, one lock",
    "class": "coldmem, class locks", "handle": "coldmem, handle",
}


def median_of(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if not row["failure"] and row.get(key) is not None]
    return statistics.median(values) if values else None


def build_cells(rows: dict[str, list[dict[str, Any]]], arm: str) -> list[str]:
    """One line: medians, and the median over repeats of ratios within one."""
    def to(other: str, key: str) -> str:
        below = {row["repeat"]: row[key] for row in rows.get(other, []) if not row["failure"]}
        ratios = [row[key] / below[row["repeat"]] for row in rows[arm]
                  if not row["failure"] and below.get(row["repeat"])]
        return f"{statistics.median(ratios):.2f}" if ratios else ""

    times = [median_of(rows[arm], key) for key in ("real_s", "user_s", "sys_s", "total_cpu_s")]
    total = median_of(rows[arm], "total_peak_bytes")
    swaps = arm != "none"
    return [
        *("" if value is None else f"{value:.0f}" for value in times),
        to("zswap", "real_s") if swaps else "",
        to("pools32", "total_cpu_s") if rows[arm][0]["server_user_s"] is not None else "",
        f"{total / 2**20:.0f}" if total else "",
    ]


def build(data: dict[str, Any]) -> list[str]:
    """The kernel build: seconds, and the memory that cgroup and pool took together."""
    found = data["settings"]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in data["rows"]:
        rows.setdefault(row["arm"], []).append(row)
    out = [
        f"A kernel build, {found['config']}, -j{found['jobs']}, in a cgroup of"
        f" {found['limit_bytes'] >> 20} MiB: seconds, and the most memory that cgroup and pool took"
        f" together; median of {found['repeats']} ({machine_line(data['machine'])}):", "",
        "| swaps to | real | user | sys | CPU, server included | real / zswap | CPU / 32 pools | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    out += [f"| {label} | {' | '.join(build_cells(rows, arm))} |"
            for arm, label in BUILD_SYSTEMS.items() if arm in rows]
    return [*out, ""]


DASK_OWN = ("spillbuffer", "spillbuffer-lz4")


def dask(results: list[dict[str, Any]]) -> list[str]:
    """Seconds of jobs on a cluster, and coldmem's by the quickest of Dask's own in the same repeat."""
    found = results[0]["settings"]
    out = [
        f"Dask, {found['workers']} workers of {found['limit_bytes'] >> 20} MiB, jobs that hold"
        f" {found['size_bytes'] >> 20} MiB at one time: seconds, and in brackets the median over repeats"
        f" of the ratio to the quickest SpillBuffer ({machine_line(results[0]['machine'])}):", "",
        "| job | data | disk | no limit | SpillBuffer | with LZ4 | coldmem |",
        "|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in (row for data in results for row in data["rows"] if not row["failed"]):
        cells.setdefault((row["job"], row["data_kind"], row["disk"]), []).append(row)
    for place, rows in cells.items():
        times: dict[str, dict[int, float]] = {}
        for row in rows:
            times.setdefault(row["system"], {})[row["repeat"]] = row["seconds"]
        ratios = [mine / min(own) for repeat, mine in times.get("coldmem", {}).items()
                  if (own := [times[s][repeat] for s in DASK_OWN if repeat in times.get(s, {})])]
        shown = [f"{statistics.median(times[system].values()):.0f}" if system in times else ""
                 for system in ("no-limit", *DASK_OWN, "coldmem")]
        if ratios:
            shown[-1] += f" ({statistics.median(ratios):.2f})"
        out.append(f"| {' | '.join([*place, *shown])} |")
    return [*out, ""]


def figures() -> str:
    lines: list[str] = []
    for name, make in (
        ("memory", memory), ("build", build), ("engine", engine), ("locks", locks)
    ):
        data = load(name)
        if data is not None:
            lines += make(data)
    jobs = [load(f"dask_{part}") for part in ("compressible", "random", "slow")]
    if measured := [data for data in jobs if data is not None]:
        lines += dask(measured)
    if not lines:
        lines = ["Nothing has been measured for this version yet: `make bench` and `make lab`.", ""]
    return "\n".join([BEGIN, "", *lines, END])


def updated(text: str) -> str:
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + figures() + after


def main() -> int:
    old = README.read_text()
    new = updated(old)
    if "--check" in sys.argv:
        return 0 if new == old else 1
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
