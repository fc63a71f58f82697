"""What this machine permits to managed memory, and what would be used: facts, each with advice.

Owns nothing, takes no locks. Reads /proc and /sys, and really tries: a small Memory in each delivery,
in a process of its own, since a machine that is not as it says may end it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from coldmem.codecs.bitshuffle import shuffle_ways
from coldmem.codecs.library import blosc2_candidates
from coldmem.codecs.registry import get_codec
from coldmem.errors import ColdmemError, MissingLibraryError
from coldmem.linux.cgroup import machine_bytes, memory_limit
from coldmem.linux.file import in_memory
from coldmem.linux.userfaultfd import features_here, rights_here, ways_here
from coldmem.memory.sizes import UNIT_BYTES, memory_bytes, swap_bytes
from coldmem.units import format_bytes
from coldmem.zswap.swapdir import default_directory

FEATURES = {"write_protect": 0, "sigbus": 7, "poison": 14, "move": 16}
NEEDED = ("write_protect", "sigbus")
SYS_PTRACE_BIT = 19
TRIAL_TIMEOUT_S = 60
LITTLE_DISK_BYTES = 1 << 30

DEVICE = (
    "for delivery 'handler': sudo chmod a+r /dev/userfaultfd; for good: a file in /etc/udev/rules.d "
    'with the line KERNEL=="userfaultfd", MODE="0444"'
)
CONTAINER = (
    "for delivery 'handler': start the container with --device /dev/userfaultfd (docker, podman), "
    "readable on the host"
)


@dataclass(frozen=True)
class Fact:
    """One line: what was looked at, what was found, and how it could be better ("" where it is well)."""

    topic: str
    name: str
    found: object
    text: str
    advice: str = ""


@dataclass
class Report:
    """All facts, and whether a Memory works in some way."""

    facts: list[Fact] = field(default_factory=list)
    works: bool = False

    def add(
        self, topic: str, name: str, found: object, text: str | None = None, advice: str = ""
    ) -> None:
        """One more fact; its text is what was found, where none is given."""
        self.facts.append(Fact(topic, name, found, str(found) if text is None else text, advice))


def examine() -> Report:
    """Look at everything, try everything."""
    report = Report()
    _kernel(report)
    _deliveries(report)
    _memory(report)
    _codecs(report)
    _defaults(report)
    return report


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _status(name: str) -> str | None:
    for line in (_read("/proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None


def _in_container() -> bool:
    return any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))


def _kernel(report: Report) -> None:
    topic = "kernel"
    report.add(topic, "release", platform.release(), f"Linux {platform.release()}, {platform.machine()}")
    rights, ways = rights_here(), ways_here()
    full = rights == "full"
    how = "" if full else _how_to_get_full()
    names = {
        "syscall": ("userfaultfd(), the system call", "one of these two is enough for 'handler'"),
        "device": ("/dev/userfaultfd, the device", "the other"),
        "user_mode_only": ("userfaultfd(UFFD_USER_MODE_ONLY)", "this is enough for 'sigbus'"),
    }
    for way, (name, what_for) in names.items():
        why = ways[way]
        report.add(topic, f"userfaultfd_{way}", not why,
                   f"{name}: {f'no: {why}' if why else 'permitted'} ({what_for})",
                   how if way == "device" and why and not full else "")
    if rights == "none":
        report.add(topic, "userfaultfd_config", False, "no way to open a userfaultfd",
                   _no_userfaultfd(ways))
    value = _read("/proc/sys/vm/unprivileged_userfaultfd")
    report.add(topic, "unprivileged_userfaultfd", value, f"vm.unprivileged_userfaultfd = {value}"
               f" ({'everybody' if value == '1' else 'not everybody'} may make the system call)")
    capabilities = int(_status("CapEff") or "0", 16)
    ptrace = bool(capabilities >> SYS_PTRACE_BIT & 1)
    report.add(topic, "cap_sys_ptrace", ptrace,
               f"CAP_SYS_PTRACE: {'yes' if ptrace else 'no'} (who has it may make the system call)")
    seccomp = _status("Seccomp")
    report.add(
        topic, "seccomp", seccomp == "2",
        "seccomp: a filter is at work" if seccomp == "2" else "seccomp: no filter",
        "the filter may forbid userfaultfd(); /dev/userfaultfd needs no system call of its own: " + how
        if seccomp == "2" and how else "",
    )
    bits = features_here()
    have = {name: bool(bits >> bit & 1) for name, bit in FEATURES.items()}
    missing = [name for name in NEEDED if not have[name]]
    report.add(
        topic, "features", have, "features: " + (", ".join(n for n, on in have.items() if on) or "none"),
        f"missing: {', '.join(missing)}; a kernel of 5.7 or later has them on x86-64" if missing else "",
    )
    huge = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    report.add(topic, "transparent_hugepage", huge,
               f"transparent huge pages: {huge} (managed memory opts out)")


def _how_to_get_full() -> str:
    if os.path.exists("/dev/userfaultfd"):
        return DEVICE
    if _in_container():
        return CONTAINER
    return (
        "for delivery 'handler': sudo sysctl vm.unprivileged_userfaultfd=1; this kernel has no "
        "/dev/userfaultfd (Linux 6.1)"
    )


def _no_userfaultfd(ways: dict[str, str]) -> str:
    if any("not implemented" in why for why in ways.values()):
        return "this kernel has none (CONFIG_USERFAULTFD, Linux 5.11 or later), or a filter says so"
    return _how_to_get_full()


def _deliveries(report: Report) -> None:
    rights = rights_here()
    for delivery in ("handler", "sigbus"):
        topic, name = "delivery", f"delivery_{delivery}"
        what = {
            "handler": "needs rights; every system call works on arrays",
            "sigbus": "needs no rights; the C library's calls work on arrays",
        }[delivery]
        if rights == "none" or (delivery == "handler" and rights != "full"):
            report.add(topic, name, False, f"{delivery}: not permitted ({what})",
                       _how_to_get_full())
            continue
        failure = try_in_a_process(delivery)
        report.works |= not failure
        report.add(
            topic, name, not failure, f"{delivery}: {failure or f'tried, works ({what})'}",
            "please report this, with the output of coldmem doctor --json" if failure else "",
        )


def try_in_a_process(delivery: str) -> str:
    """Pass an array through a small Memory: "" or what went wrong."""
    code = f"from coldmem.lab.doctor import trial; trial({delivery!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # The name that the interpreter goes by may be one that only others may execute.
    python = sys.executable if os.access(sys.executable, os.X_OK) else "/proc/self/exe"
    try:
        done = subprocess.run(
            [python, "-c", code], env=environment, capture_output=True, text=True,
            timeout=TRIAL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TRIAL_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"failed: {last}"


def trial(delivery: str) -> None:
    """An array of twice the limit goes through a Memory; raises when it does not come back."""
    import numpy as np

    from coldmem.memory.memory import Memory

    want = np.arange(3 << 20, dtype=np.int64)
    want[::3] *= 2654435761
    with Memory("12M", "24M", delivery=delivery) as memory:
        array = memory.array(want)
        if not np.array_equal(array, want):
            raise SystemExit("an array came back changed")
        if delivery == "handler":
            memory.evict(array)
            with open("/dev/zero", "rb") as file:
                if file.readinto(memoryview(array)) != array.nbytes or array.any():
                    raise SystemExit("a system call on an array did not do all of its work")
        del array
    memory.close()


def _memory(report: Report) -> None:
    topic = "memory"
    machine, limit = machine_bytes(), memory_limit()
    report.add(topic, "machine_bytes", machine, f"{format_bytes(machine)} in the machine")
    report.add(
        topic, "limit", {"bytes": limit.nbytes, "source": limit.source},
        "no limit of a memory cgroup" if limit.source == "machine"
        else f"{format_bytes(limit.nbytes)}, says {limit.source}",
    )
    cpus = len(os.sched_getaffinity(0))
    report.add(
        topic, "cpus", cpus, f"{cpus} CPUs",
        "with one CPU, compression in the background competes with the program" if cpus == 1 else "",
    )
    try:
        directory = default_directory()
        free = shutil.disk_usage(directory).free
    except (ColdmemError, OSError) as error:
        report.add(topic, "swap_directory", None, str(error), "set TMPDIR, or pass directory=")
        return
    in_ram = in_memory(directory)
    advice = ""
    if in_ram:
        advice = "it is in RAM (tmpfs), which saves none: set TMPDIR to a disk, or pass directory="
    elif free < LITTLE_DISK_BYTES:
        advice = "make room there, set TMPDIR to a disk with more, or pass directory="
    report.add(
        topic, "swap_directory", {"path": directory, "free_bytes": free, "in_memory": in_ram},
        f"swap file in {directory}: {format_bytes(free)} free", advice,
    )


def _codecs(report: Report) -> None:
    topic = "codecs"
    for name in ("lz4", "zstd"):
        try:
            get_codec(name)
        except MissingLibraryError as error:
            report.add(topic, name, False, f"{name}: no library", str(error))
        else:
            report.add(topic, name, True, f"{name}: there")
    found = any(map(os.path.exists, blosc2_candidates()))
    report.add(topic, "blosc2", found,
               f"the library of blosc2, which has both: {'there' if found else 'no'}")
    ways = shuffle_ways()
    report.add(topic, "shuffle", ways, f"bit shuffle: {', '.join(ways)}")


def _defaults(report: Report) -> None:
    topic = "defaults"
    rights = rights_here()
    delivery = {"full": "handler", "user": "sigbus"}.get(rights)
    report.add(topic, "default_delivery", delivery,
               f"delivery: {delivery or 'none is possible'}")
    memory = memory_bytes("auto")
    report.add(topic, "default_memory_max", memory, f"memory_max: {format_bytes(memory)}")
    try:
        swap = swap_bytes("auto", memory, None)
        report.add(topic, "default_swap_max", swap, f"swap_max: {format_bytes(swap)}")
    except (ColdmemError, OSError) as error:
        report.add(topic, "default_swap_max", None, "swap_max: unknown", str(error))
    report.add(topic, "default_unit_bytes", UNIT_BYTES, f"unit_bytes: {format_bytes(UNIT_BYTES)}")
    report.add(topic, "default_codec", "auto", "codec: auto (the picker, with lz4)")
