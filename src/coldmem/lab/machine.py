"""Facts about this machine that a reader of a measurement needs.

Owns nothing, takes no locks. What cannot be found out is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine() or None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def version() -> str:
    """Of the installed package; run from a source tree that is not installed, it says so."""
    try:
        return metadata.version("coldmem")
    except metadata.PackageNotFoundError:
        return "source tree, not installed"


def _compiler() -> str:
    """Of coldmem's own modules, as they recorded it."""
    from coldmem.lab.alloc_work import COMPILER

    return COMPILER


def facts() -> dict[str, object]:
    """The machine as one flat mapping, ready for JSON."""
    return {
        "cpu_model": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory_bytes(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "coldmem": version(),
        "compiler": _compiler(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min_at_start": round(os.getloadavg()[0], 2),
        "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
