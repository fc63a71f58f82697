"""A memory cgroup of our own, v1 or v2, whichever the memory controller is mounted with.

Owns: one folder in the hierarchy, removed by `close`. Needs root. Takes no locks.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from coldmem.errors import EnvironmentFailure

_BUSY_S_MAX = 5.0  # a process that has just ended may still be in it


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
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted = fields.split()[3:5]
        name, _, options = kind.split(" ", 2)
        if name == "cgroup" and "memory" in options.split()[-1].split(","):
            own = Path(mounted) / groups.get("memory", "/").removeprefix(root).lstrip("/")
            return Hierarchy(1, own if own.is_dir() else Path(mounted))
        if name == "cgroup2":
            controllers_path = Path(mounted) / "cgroup.controllers"
            if controllers_path.exists() and "memory" in controllers_path.read_text().split():
                return Hierarchy(2, Path(mounted))
    raise EnvironmentFailure("no memory controller is mounted, neither of cgroup v1 nor of v2")


class MemoryGroup:
    """A group with a limit, made by the constructor.

    Attributes
    ----------
    join_path, usage_path, limit_path : Path
        Write a process's number to the first; bytes charged are in the second.
    no_limit : str
        What `limit_path` takes for "no limit".
    """

    def __init__(self, limit_bytes: int, hierarchy: Hierarchy | None = None) -> None:
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
            self.limit_path.write_text(str(limit_bytes))
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
