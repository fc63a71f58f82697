"""What this process, a thread and the machine use, by the kernel's account. No policy, no locks."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from coldmem.errors import EnvironmentFailure

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def process_cpu_s() -> tuple[float, float]:
    """User and system seconds that this process has used so far, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def process_faults() -> tuple[int, int]:
    """Page faults of this process so far: those that waited for no data, and those that did."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def machine_cpu_s() -> float | None:
    """CPU seconds that the whole machine has used so far; None where /proc/stat does not say."""
    try:
        line = Path("/proc/stat").read_text(errors="replace").partition("\n")[0]
    except OSError:
        return None
    fields = line.split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    ticks = [int(field) for field in fields[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / _TICKS_PER_S


def other_cpu_s(pid: int) -> float:
    """CPU seconds of another process so far, threads that have ended included.

    Raises
    ------
    OSError
        There is no such process.
    """
    # What clock_getcpuclockid(3) makes of a process: 2 is the scheduler's own account.
    return time.clock_gettime((~pid << 3) | 2)


def thread_cpu_s(native_id: int) -> float:
    """CPU seconds of one thread of this process so far; 0.0 when it is gone."""
    try:
        text = Path(f"/proc/self/task/{native_id}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise EnvironmentFailure(f"/proc/self/status has no {name}: this kernel is too old")


def anonymous_bytes() -> int:
    """Anonymous memory of this process that is in RAM: what programs call their own."""
    return _status_bytes("RssAnon")


def swapped_bytes() -> int:
    """Anonymous memory of this process that the kernel has swapped out, to wherever."""
    return _status_bytes("VmSwap")


def machine_bytes(name: str) -> int | None:
    """A line of /proc/meminfo in bytes; None where this kernel has no such line."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
