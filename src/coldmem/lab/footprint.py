"""How much memory a measured process takes, by the kernel's account: its peak, and a compressed pool.

Owns: the thread that samples, inside ``with``. Assumes that nothing else on the machine uses the
kernel's compressed swap meanwhile. Takes no locks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coldmem.linux.usage import machine_bytes

SAMPLE_S = 0.005


class Sampler:
    """Peak of `footprint`, looked at every 5 ms (or `every_s`) by a thread, inside ``with``."""

    def __init__(self, footprint: Callable[[], int], every_s: float = SAMPLE_S) -> None:
        self.peak_bytes = 0
        self._footprint = footprint
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.peak_bytes = max(self.peak_bytes, self._footprint())

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._footprint())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The cgroup of a measured process and the kernel's pool behind it; nothing of it: no limit.

    Attributes
    ----------
    join_path : str
        ``cgroup.procs`` to write our number to; empty: none.
    usage_path, limit_path : str
        Files with the bytes that the cgroup holds, and those that it may hold.
    no_limit : str
        What to write to `limit_path` for `lift`.
    pool_path : str
        ``mm_stat`` of the zram device; empty: zswap's lines of /proc/meminfo.
    pool_charged : bool
        The pool is in the cgroup's account already.
    """

    join_path: str = ""
    usage_path: str = ""
    limit_path: str = ""
    no_limit: str = ""
    pool_path: str = ""
    pool_charged: bool = False

    def join(self) -> None:
        """From here on what this process takes is charged to the cgroup."""
        if self.join_path:
            Path(self.join_path).write_text("0")  # 0: whoever writes

    def lift(self) -> None:
        """No limit any more: in a cgroup that is full of pages in use the kernel may find nothing to
        take out and kill us. For what is not timed.
        """
        if self.limit_path:
            Path(self.limit_path).write_text(self.no_limit)


class KernelPool:
    """What the kernel's compressed pool holds: bytes of pages, and bytes that they take."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._zram = Path(fence.pool_path) if fence.pool_path else None
        self._before = (0, 0)
        self._before = self.sizes()

    def sizes(self) -> tuple[int, int]:
        """(original, used), less what was there when this was made."""
        if self._zram is not None:
            fields = self._zram.read_text().split()
            found = int(fields[0]), int(fields[2])
        else:
            found = machine_bytes("Zswapped") or 0, machine_bytes("Zswap") or 0
        return max(found[0] - self._before[0], 0), max(found[1] - self._before[1], 0)

    def footprint(self) -> int:
        """What the cgroup and the pool hold together."""
        charged = int(Path(self._fence.usage_path).read_text())
        return charged + (0 if self._fence.pool_charged else self.sizes()[1])
