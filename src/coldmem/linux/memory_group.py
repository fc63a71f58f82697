"""A memory cgroup of our own, v1 or v2, whichever the memory controller is mounted with.

Owns: one folder in the hierarchy, removed by `close`. Needs root. Takes no locks.
A cgroup is also the one place that knows all processes that a program has started: `kill` ends them.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from coldmem.errors import EnvironmentFailure
from coldmem.linux.cgroup_mounts import cgroup_mounts

_BUSY_S_MAX = 5.0  # a process that has just ended may still be in it
_DEATH_S_MAX = 30.0  # a killed process ends once its I/O is done


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where memory cgroups are made.

    Attributes
    ----------
    version : int
        1 or 2.
    folder : Path
        A new group is a new folder in it.
    """

    version: int
    folder: Path


def find_hierarchy(proc: Path = Path("/proc/self")) -> Hierarchy:
    """Where this process may make a memory cgroup.

    Parameters
    ----------
    proc : Path
        Where to read, for tests.

    Raises
    ------
    EnvironmentFailure
        No memory controller is mounted.
    """
    groups: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, relative = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), relative)
    for mount in cgroup_mounts(proc):
        if mount.version == 1 and "memory" in mount.options:
            own = mount.folder / groups.get("memory", "/").removeprefix(mount.root).lstrip("/")
            return Hierarchy(1, own if own.is_dir() else mount.folder)
        if mount.version == 2:
            controllers_path = mount.folder / "cgroup.controllers"
            if controllers_path.exists() and "memory" in controllers_path.read_text().split():
                return Hierarchy(2, mount.folder)
    raise EnvironmentFailure("no memory controller is mounted, neither of cgroup v1 nor of v2")


class MemoryGroup:
    """A group with a limit, made by the constructor.

    Parameters
    ----------
    limit_bytes : int or None
        None: no limit.

    Attributes
    ----------
    join_path, usage_path, limit_path : Path
        Write a process's number to the first; bytes charged are in the second.
    no_limit : str
        What `limit_path` takes for "no limit".
    """

    def __init__(self, limit_bytes: int | None, hierarchy: Hierarchy | None = None) -> None:
        self.hierarchy = hierarchy or find_hierarchy()
        self._made = False
        self._enabled = False
        v2 = self.hierarchy.version == 2
        self.folder = self.hierarchy.folder / f"coldmem-bench-{os.getpid()}"
        self.join_path = self.folder / "cgroup.procs"
        self.usage_path = self.folder / ("memory.current" if v2 else "memory.usage_in_bytes")
        self.limit_path = self.folder / ("memory.max" if v2 else "memory.limit_in_bytes")
        self.no_limit = "max" if v2 else "-1"
        try:
            if v2:
                self._enable()
            self.folder.mkdir()
            self._made = True
            self.limit_path.write_text(self.no_limit if limit_bytes is None else str(limit_bytes))
        except OSError as error:
            self.close()
            raise EnvironmentFailure(
                f"no memory cgroup can be made in {self.hierarchy.folder}: {error.strerror}"
            ) from error

    def _enable(self) -> None:
        """v2: children have a memory controller only where the parent says so."""
        control = self.hierarchy.folder / "cgroup.subtree_control"
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
            self._enabled = True

    def usage_bytes(self) -> int:
        """Bytes that are charged now."""
        return int(self.usage_path.read_text())

    def lift(self) -> None:
        """No limit any more."""
        self.limit_path.write_text(self.no_limit)

    def oom_kills(self) -> int | None:
        """Processes that the kernel has killed for want of memory; None where it does not say."""
        name = "memory.events" if self.hierarchy.version == 2 else "memory.oom_control"
        for line in (self.folder / name).read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return None

    def members(self) -> list[int]:
        """Numbers of the processes in it, as this process sees them."""
        return [int(line) for line in self.join_path.read_text().split()]

    def kill(self, patience_s: float = _DEATH_S_MAX) -> bool:
        """End every process in it with SIGKILL; whether all are gone."""
        end = time.monotonic() + patience_s
        while found := self.members():
            for process in found:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Remove the group; nobody is in it any more."""
        if self._made:
            end = time.monotonic() + _BUSY_S_MAX
            while True:
                try:
                    if self.hierarchy.version == 1:
                        (self.folder / "memory.force_empty").write_text("0")
                    self.folder.rmdir()
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        raise EnvironmentFailure(
                            f"{self.folder} cannot be removed: {error.strerror}"
                        ) from error
                    time.sleep(0.02)
            self._made = False
        if self._enabled:
            (self.hierarchy.folder / "cgroup.subtree_control").write_text("-memory")
            self._enabled = False
