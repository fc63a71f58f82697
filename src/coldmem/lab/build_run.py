"""One run of ``lab build`` from outside: the cgroup, the child, and what is counted meanwhile.

Owns, inside `run_once`: a memory cgroup, the child with its namespaces, and the arm's swap. When it
returns or raises, all of it is gone: the processes first, then swap, device and servers.
Guarantees: what is counted is counted between the step "ready" and the step "built"; the peaks are from
the start of the copying on.
Assumes: nothing else on the machine swaps. Locks: `changing_swap`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from coldmem.errors import EnvironmentFailure
from coldmem.lab.build_case import LAST_WORDS, BuildCase
from coldmem.lab.build_swap import NO_LIMIT, Swap, SwapSettings, ready
from coldmem.lab.footprint import Sampler
from coldmem.lab.postponed import PostponedSignals
from coldmem.linux.memory_group import MemoryGroup
from coldmem.linux.swap import changing_swap
from coldmem.linux.usage import (
    kernel_threads_cpu_s,
    machine_cpu_s,
    pressure_s,
    swap_events,
)
from coldmem.linux.wait import wait_readable
from coldmem.nbd.trace import Trace

SAMPLE_S = 0.1
TICK_NS = 1000  # of the times in a record
LOOK_MS = 500  # between two looks at the processes behind the device
DEATH_S_MAX = 30.0
#: Mounts and processes of the child's own, which end with it.
NAMESPACES = (
    "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
    "--mount-proc",
)


@dataclass
class Attempt:
    """What one run gave. `failure` says why it did not end well; then the rest may be missing."""

    arm: str
    repeat: int
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    killed: bool = False


class _Failed(Exception):
    """A program failed, or what the child needed to read is gone; the message says what."""


class _Child:
    """The child, and its lines."""

    def __init__(self, case: BuildCase) -> None:
        self._process = subprocess.Popen(
            [*NAMESPACES, sys.executable, "-m", "coldmem.lab.build_case"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we end it when it is its turn
        )
        self._unread = b""
        self.go_on(case.to_json())

    def go_on(self, line: str = "") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the next line that is waited for says why

    def step(self, name: str, swap: Swap, seconds_max: float) -> dict[str, Any]:
        """What it says when the step is done.

        Raises
        ------
        _Failed
            A program failed.
        EnvironmentFailure
            It took too long, or what serves the swap device has ended.
        """
        assert self._process.stdout is not None
        end = time.monotonic() + seconds_max
        while b"\n" not in self._unread:
            if not wait_readable([self._process.stdout.fileno()], LOOK_MS):
                swap.check()
                if time.monotonic() > end:
                    raise EnvironmentFailure(f"not done after {seconds_max:.0f} s")
                continue
            piece = os.read(self._process.stdout.fileno(), 1 << 20)
            if not piece:
                raise _Failed(f"the run ended before its time: {self._last_words()}")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if found.pop("step") != name:
            raise _Failed(found.get("message", f"no step {name}"))
        return found

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        self._process.wait(DEATH_S_MAX)
        return self._process.stderr.read().decode(errors="replace").strip()[-LAST_WORDS:]

    def _ended(self, seconds_max: float) -> bool:
        """Whether the child is gone: `unshare` ends first, and it is the child that has the pipe."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds_max
        while time.monotonic() < end:
            if wait_readable([self._process.stdout.fileno()], LOOK_MS) and not os.read(
                self._process.stdout.fileno(), 1 << 20
            ):
                return True
        return False

    def end(self, group: MemoryGroup, swap: Swap) -> None:
        """End it with all that it has started; its tmpfs goes with it."""
        self._process.kill()  # and with it, the first process of its PID namespace
        if not (group.kill(DEATH_S_MAX) and self._ended(DEATH_S_MAX)):
            swap.abort()  # they wait for a device that does not answer
            group.kill(DEATH_S_MAX)
            self._ended(DEATH_S_MAX)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _counters(swap: Swap) -> dict[str, Any]:
    """Everything that only grows, now."""
    found: dict[str, Any] = dict(swap.counters())
    found["machine_busy_s"] = machine_cpu_s()
    found["kernel_threads_cpu_s"] = kernel_threads_cpu_s()
    found |= {f"vm_{name}": value for name, value in swap_events().items()}
    found |= {f"psi_{name}_s": value for name, value in pressure_s().items()}
    return found


def _grown(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if after[name] is None or before.get(name) is None else after[name] - before[name]
        for name in after
    }


class _Peaks:
    """The largest values of what is looked at now and then."""

    def __init__(self, group: MemoryGroup, swap: Swap) -> None:
        self._group, self._swap = group, swap
        self.pool_bytes = self.pool_original_bytes = self.group_bytes = self.overhead_bytes = 0

    def look(self) -> int:
        """Bytes of cgroup, pool and its tables together, now."""
        original, used = self._swap.pool()
        charged = self._group.usage_bytes()
        if used >= self.pool_bytes:
            self.pool_bytes, self.pool_original_bytes = used, original
        self.group_bytes = max(self.group_bytes, charged)
        overhead = self._swap.overhead()
        self.overhead_bytes = max(self.overhead_bytes, overhead)
        return charged + overhead + (0 if self._swap.pool_charged else used)


def run_once(
    arm: str, repeat: int, case: BuildCase, limit_bytes: int, settings: SwapSettings,
    seconds_max: float, signals: PostponedSignals,
) -> Attempt:
    """Run `case` in `arm`; `case.join_path` is filled in here.

    Raises
    ------
    EnvironmentFailure
        The arm cannot be set up, or did not end in time. A build that fails or is killed by the kernel
        raises nothing: see `Attempt`.
    """
    attempt = Attempt(arm, repeat)
    with ExitStack() as undo:
        undo.enter_context(changing_swap())
        swap = undo.enter_context(ready(arm, settings))
        group = MemoryGroup(None if arm == NO_LIMIT else limit_bytes)
        undo.callback(group.close)
        child = _Child(_joined(case, group))
        undo.callback(child.end, group, swap)
        peaks = _Peaks(group, swap)
        attempt.fields |= swap.fields
        with signals.open():
            try:
                _drive(attempt, child, group, swap, peaks, seconds_max)
            except _Failed as error:
                attempt.failure = str(error)
            kills = group.oom_kills()
            attempt.killed = bool(kills)
            attempt.fields["oom_kills"] = kills
    if settings.record is not None and not attempt.failure:
        _cut(settings.record, attempt.fields["uptime_s"])
    return attempt


def _cut(path: Path, seconds: float) -> None:
    """Leave out of a record what came after the build: reading its files, and throwing them away."""
    trace = Trace.load(path)
    n = int(np.searchsorted(trace.time_ns, seconds * 1e9, "right"))
    trace.head(n).save(path, TICK_NS)


def _joined(case: BuildCase, group: MemoryGroup) -> BuildCase:
    return replace(case, join_path=str(group.join_path))


def _drive(
    attempt: Attempt, child: _Child, group: MemoryGroup, swap: Swap, peaks: _Peaks,
    seconds_max: float,
) -> None:
    """All steps of a run, and what is counted."""
    fields = attempt.fields
    with Sampler(peaks.look, SAMPLE_S) as sampler:
        at_start = _counters(swap)
        fields |= child.step("ready", swap, seconds_max)
        before = _counters(swap)
        child.go_on()
        fields |= child.step("built", swap, seconds_max)
        after = _counters(swap)
    fields |= _grown(before, after)
    if "uptime_s" in after:
        fields["uptime_s"] = after["uptime_s"]
    fields["copy_counters"] = _grown(at_start, before)
    fields |= {
        "pool_peak_bytes": peaks.pool_bytes,
        "pool_peak_original_bytes": peaks.pool_original_bytes,
        "overhead_peak_bytes": peaks.overhead_bytes,
        "cgroup_peak_bytes": peaks.group_bytes,
        "total_peak_bytes": sampler.peak_bytes,
    }
    group.lift()
    child.go_on()
    attempt.files = child.step("read", swap, seconds_max)["files"]
