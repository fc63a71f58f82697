"""The kernel's compressed swap as a system to measure: zswap before a swap file, and zram as swap.

Owns, inside `ready`: a memory cgroup, one swap area, and the setting of zswap; inside `limited`: the
cgroup alone. All of it is as it was before when the block is left, however that happens (short of
SIGKILL). The undoing of each step is noted before the step is done. Needs root.
zswap runs as it is configured, its compressor and shrinker included; only "enabled" is changed. The
swap area has the highest priority, so swap that the machine has already is not used by us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldmem.errors import EnvironmentFailure
from coldmem.lab.memory_case import ZRAM, ZSWAP
from coldmem.linux.memory_group import MemoryGroup, find_hierarchy
from coldmem.linux.swap import changing_swap, format_swap, swap_off, swap_on
from coldmem.linux.usage import machine_bytes
from coldmem.linux.zram import Zram, ZramModule
from coldmem.zswap.swapdir import default_directory

ZSWAP_SETTINGS = Path("/sys/module/zswap/parameters")
ZRAM_CODEC = "lz4"
SWAP_TIMES = 2  # size of the swap area, in regions


@contextmanager
def limited(limit_bytes: int) -> Iterator[dict[str, Any]]:
    """A memory cgroup of our own; the fields of a `Fence` that are about it."""
    if os.geteuid() != 0:
        raise EnvironmentFailure("a memory cgroup needs root")
    group = MemoryGroup(limit_bytes)
    try:
        yield {
            "join_path": str(group.join_path), "usage_path": str(group.usage_path),
            "limit_path": str(group.limit_path), "no_limit": group.no_limit,
        }
    finally:
        group.close()


@dataclass(frozen=True, slots=True)
class KernelSystem:
    """One of the two."""

    name: str

    @property
    def pool_charged(self) -> bool:
        """Whether the pool is in the cgroup's account."""
        return self.name == ZSWAP and find_hierarchy().version == 2

    @contextmanager
    def ready(self, region_bytes: int, limit_bytes: int) -> Iterator[dict[str, Any]]:
        """Everything set up; the fields of a `Fence` that are about it.

        Parameters
        ----------
        region_bytes : int
            The swap area is twice as large.
        limit_bytes : int
            Of the cgroup.

        Raises
        ------
        EnvironmentFailure
            Something is missing or forbidden; the message says what.
        """
        if os.geteuid() != 0:
            raise EnvironmentFailure("changing swap and cgroups needs root")
        with ExitStack() as undo:
            undo.enter_context(changing_swap())
            try:
                fields = self._set_up(undo, region_bytes * SWAP_TIMES)
            except OSError as error:
                raise EnvironmentFailure(f"{error.filename}: {error.strerror}") from error
            yield fields | undo.enter_context(limited(limit_bytes))

    def _set_up(self, undo: ExitStack, swap_bytes: int) -> dict[str, Any]:
        if self.name == ZRAM:
            if (ZSWAP_SETTINGS / "enabled").exists():
                change(undo, ZSWAP_SETTINGS / "enabled", "N")  # it would stand before zram
            undo.enter_context(ZramModule())
            device = Zram(swap_bytes, ZRAM_CODEC, Path(default_directory()))
            undo.callback(device.close)
            use_swap(undo, device.path, swap_bytes)
            return {"codec": ZRAM_CODEC, "pool_path": str(device.stat_path)}
        if not ZSWAP_SETTINGS.exists() or machine_bytes("Zswap") is None:
            raise EnvironmentFailure("this kernel has no zswap, or does not say what its pool holds")
        path = Path(default_directory()) / f"coldmem-bench-{os.getpid()}.swap"
        make_swap_file(undo, path, swap_bytes)
        use_swap(undo, path, swap_bytes)
        change(undo, ZSWAP_SETTINGS / "enabled", "Y")
        codec = (ZSWAP_SETTINGS / "compressor").read_text().strip()
        return {"codec": codec, "pool_charged": self.pool_charged}


def use_swap(undo: ExitStack, path: Path, swap_bytes: int, discard: bool = False) -> None:
    """The kernel swaps to `path` until `undo` is closed."""
    format_swap(path, swap_bytes)
    undo.callback(swap_off, path)
    swap_on(path, discard=discard)


def make_swap_file(undo: ExitStack, path: Path, swap_bytes: int) -> None:
    """A file with all its space reserved, until `undo` is closed."""
    undo.callback(path.unlink, missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(fd, 0, swap_bytes)
    finally:
        os.close(fd)


def change(undo: ExitStack, path: Path, value: str) -> None:
    """Change a setting; `undo` has the old value."""
    undo.callback(path.write_text, path.read_text().strip())
    path.write_text(value)


SYSTEMS = (KernelSystem(ZSWAP), KernelSystem(ZRAM))
