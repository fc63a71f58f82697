"""What a run of ``lab build`` becomes in the result: flat rows, and medians over the repeats.

Owns nothing, takes no locks. A value that could not be found out is None, never 0.
"""

from __future__ import annotations

import statistics
from typing import Any

from coldmem.lab.build_run import Attempt
from coldmem.lab.result import Row, rounded

TIMES = (
    "real_s", "user_s", "sys_s", "server_user_s", "server_sys_s", "fuse_cpu_s",
    "kernel_threads_cpu_s", "machine_busy_s", "copy_s", "prepare_s",
)
SIZES = (
    "pool_peak_bytes", "pool_peak_original_bytes", "overhead_peak_bytes", "cgroup_peak_bytes",
    "total_peak_bytes",
)


def _pages(found: dict[str, Any], way: str) -> int | None:
    """Pages that left (or came back), to wherever; zswap's writeback is not a second leaving."""
    if f"vm_pswp{way}" not in found:
        return None
    back = found.get("vm_zswpwb", 0) if way == "out" else 0
    return int(found[f"vm_pswp{way}"] + found.get(f"vm_zswp{way}", 0) - back)


def _sum(found: dict[str, Any], names: tuple[str, ...]) -> float | None:
    values = [found.get(name, 0.0) for name in names]
    return None if None in values or "real_s" not in found else rounded(sum(values), 5)


def row_of(
    attempt: Attempt, limit_bytes: int, objects_sha256: str | None, differs: str | None
) -> Row:
    """One run."""
    found = attempt.fields
    row: Row = {
        "arm": attempt.arm,
        "repeat": attempt.repeat,
        "killed": attempt.killed,
        "failure": attempt.failure or None,
        "files": len(attempt.files),
        "objects_sha256": objects_sha256,
        "first_difference": differs,
        "limit_bytes": None if attempt.arm == "none" else limit_bytes,
    }
    for name in TIMES:
        value = found.get(name)
        row[name] = None if value is None else rounded(value, 5)
    row["total_cpu_s"] = _sum(
        found,
        ("user_s", "sys_s", "server_user_s", "server_sys_s", "fuse_cpu_s", "kernel_threads_cpu_s"),
    )
    copied = found.get("copy_counters", {})
    row |= {
        "pages_out": _pages(found, "out"),
        "pages_in": _pages(found, "in"),
        "pages_zero_out": found.get("vm_swpout_zero"),
        "copy_pages_out": _pages(copied, "out"),
        "written_back": found.get("written_back", found.get("vm_zswpwb")),
    }
    row |= {name: found.get(name) for name in SIZES}
    row |= {
        name: value for name, value in found.items()
        if name not in row and not name.startswith("vm_") and name != "copy_counters"
    }
    return row


def median_of(rows: list[Row], name: str) -> float | None:
    """Over the runs that ended well; None when there is none, or it was never found out."""
    values = [row[name] for row in rows if not row["failure"] and row.get(name) is not None]
    numbers = [float(str(value)) for value in values]
    return statistics.median(numbers) if numbers else None
