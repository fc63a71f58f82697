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
    """CPU seconds of another process so far, to the nanosecond, threads that have ended included.

    Raises
    ------
    OSError
        There is no such process.
    """
    # What clock_getcpuclockid(3) makes of a process: 2 is the scheduler's own account.
    return time.clock_gettime((~pid << 3) | 2)


def other_process_cpu_s(process: int) -> tuple[float, float]:
    """User and system seconds of another process so far; zeros when it is gone."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0, 0.0
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S


def kernel_threads_cpu_s() -> float:
    """CPU seconds of all threads of the kernel that are there now, such as workers of loop devices."""
    total = 0
    for folder in os.listdir("/proc"):
        if not folder.isdigit():
            continue
        try:
            fields = Path(f"/proc/{folder}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == "2":  # the parent of them all is kthreadd
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def other_process_bytes(process: int, name: str = "VmRSS") -> int:
    """A size of another process, such as VmRSS or VmHWM (the peak of it); 0 when it is gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = _line_bytes(text, name)
    return 0 if found is None else found


def thread_cpu_s(native_id: int) -> float:
    """CPU seconds of one thread of this process so far; 0.0 when it is gone."""
    try:
        text = Path(f"/proc/self/task/{native_id}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _line_bytes(text: str, name: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _status_bytes(name: str) -> int:
    found = _line_bytes(Path("/proc/self/status").read_text(), name)
    if found is None:
        raise EnvironmentFailure(f"/proc/self/status has no {name}: this kernel is too old")
    return found


def anonymous_bytes() -> int:
    """Anonymous memory of this process that is in RAM: what programs call their own."""
    return _status_bytes("RssAnon")


def swapped_bytes() -> int:
    """Anonymous memory of this process that the kernel has swapped out, to wherever."""
    return _status_bytes("VmSwap")


def machine_bytes(name: str) -> int | None:
    """A line of /proc/meminfo in bytes; None where this kernel has no such line."""
    return _line_bytes(Path("/proc/meminfo").read_text(), name)


def swap_events() -> dict[str, int]:
    """Pages that the whole machine has swapped so far, by the names of /proc/vmstat.

    ``pswpout`` and ``pswpin`` went to and came from a device, ``zswpout`` and ``zswpin`` to and from
    the kernel's zswap, ``zswpwb`` from zswap to its device; ``swpout_zero`` and ``swpin_zero`` held
    only zeros, which the kernel notes in a bitmap. What a kernel does not have is not there.
    """
    wanted = ("pswpin", "pswpout", "zswpin", "zswpout", "zswpwb", "swpout_zero", "swpin_zero")
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in wanted}


def pressure_s() -> dict[str, float]:
    """Seconds for which some, or all, of the machine's tasks have waited so far, by what for.

    Keys such as ``memory_some`` and ``io_full``; none where the kernel keeps no such account.
    """
    found = {}
    for kind in ("cpu", "memory", "io"):
        try:
            lines = Path("/proc/pressure", kind).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, *fields = line.split()
            total = dict(field.split("=") for field in fields)["total"]
            found[f"{kind}_{name}"] = int(total) / 1e6
    return found
