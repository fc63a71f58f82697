"""How much memory a store may take: from the worker's limit and Dask's configuration.

Owns: nothing. Guarantees: numbers in bytes that fit together: target <= hold, but where a
    running task takes so much that values must go at once.
Assumes: `distributed.worker.memory.*` means what it means to Dask. Locks: none.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.worker_memory import parse_memory_limit

logger = logging.getLogger("coldmem.dask")

UNLIMITED = sys.maxsize
# Compressed data may take this share of the target, where it shrinks to half its size or less. Measured
# with `bench dask`, groupby: 0.2 takes 0.8 of the time of 0.6 on either disk, more being there as it is.
COMPRESSED_SHARE = 0.2
# And this where compression gains nothing: what waits there for the disk.
COMPRESSED_SHARE_MIN = 0.05
_PAYS, _DOES_NOT_PAY = 0.5, 0.9  # compressed size by original size
_LEAST_PART = 8  # of the limit is left to the values, whatever else the process holds


@dataclass(frozen=True)
class Budget:
    """What a worker's memory limit leaves for its data.

    Attributes
    ----------
    limit_bytes : int or None
        Memory limit of the worker; None: there is none, and the store moves nothing by itself.
    target_bytes : int
        Raw values and compressed ones together stay below it.
    hold_bytes : int
        A value that is stored above it waits, for a short while, until the threads have caught up.
    disk_bytes_max : int or None
        Largest size of what lies on disk; None: as much as there is room, 0: nothing.
    process_target_bytes, process_hold_bytes : int
        The same two for all memory of the process, values and what Dask calls unmanaged.
    """

    limit_bytes: int | None
    target_bytes: int
    hold_bytes: int
    disk_bytes_max: int | None
    process_target_bytes: int = UNLIMITED
    process_hold_bytes: int = UNLIMITED

    @classmethod
    def from_config(cls, memory_limit: int | float | str | None, nthreads: int | None) -> Budget:
        """What Dask's configuration says, read now.

        Parameters
        ----------
        memory_limit : int, float, str or None
            As Dask's ``--memory-limit``: bytes, "4GiB", a share of the machine's memory (at most 1),
            "auto" (the machine's memory by `nthreads` over its CPUs), 0 or None for no limit.
        nthreads : int or None
            Threads of the worker, which "auto" needs; None: as many as there are CPUs.
        """
        limit = parse_memory_limit(memory_limit, nthreads or CPU_COUNT, logger=logger)
        target = _fraction("target") or _fraction("spill")
        spill = _fraction("spill") or target
        most: Any = dask.config.get("distributed.worker.memory.max-spill", False)
        disk = None if most is False or most is None else parse_bytes(most)
        if limit is None or not target:
            return cls(limit, UNLIMITED, UNLIMITED, disk)
        # Where target is switched off, spill stands in for it: waiting until the process as a whole
        # passes spill, as SpillBuffer does, would leave the threads no time.
        target_bytes = int(limit * target)
        hold_bytes = round(limit * (target + max(spill, target)) / 2)
        if not _fraction("spill"):  # then Dask does not look at the process either
            return cls(limit, target_bytes, hold_bytes, disk)
        # Between spill and pause, so that work is seldom paused: what is put waits instead.
        pause = max(_fraction("pause"), spill)
        return cls(limit, target_bytes, hold_bytes, disk, round(limit * spill),
                   round(limit * (spill + pause) / 2))

    def beside(self, lasting_bytes: int, now_bytes: int) -> Budget:
        """What is left of it where the process has memory beside its values.

        Parameters
        ----------
        lasting_bytes : int
            That it has had for a while.
        now_bytes : int
            That it has now: much may be of the running task, and goes with it.
        """
        if self.process_target_bytes == UNLIMITED or self.limit_bytes is None:
            return self
        least = self.limit_bytes // _LEAST_PART
        target = min(self.target_bytes, max(least, self.process_target_bytes - lasting_bytes))
        hold = min(self.hold_bytes, max(least, self.process_hold_bytes - now_bytes))
        return replace(self, target_bytes=target, hold_bytes=hold)

    def compressed_bytes_max(self, ratio: float) -> int:
        """Most bytes of compressed values in RAM, where `ratio` is their size by the original's."""
        if self.target_bytes == UNLIMITED:
            return UNLIMITED
        worth = min(1.0, max(0.0, (_DOES_NOT_PAY - ratio) / (_DOES_NOT_PAY - _PAYS)))
        share = COMPRESSED_SHARE_MIN + worth * (COMPRESSED_SHARE - COMPRESSED_SHARE_MIN)
        return int(self.target_bytes * share)


def _fraction(name: str) -> float:
    """``distributed.worker.memory.<name>``; 0 where it is switched off."""
    value = dask.config.get(f"distributed.worker.memory.{name}", False)
    return float(value) if value else 0.0
