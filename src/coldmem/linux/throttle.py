"""A block device that is slower than it is: the kernel's own throttle, by cgroup v1's blkio controller.

Owns: the two limits of one device, set by the constructor, lifted by `close`. Needs root. No locks.
The limits are those of the root group: that is whose name the kernel writes cached pages back in.
"""

from __future__ import annotations

import os
from pathlib import Path

from coldmem.errors import EnvironmentFailure
from coldmem.linux.cgroup_mounts import cgroup_mounts

_FILES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")


def find_blkio(proc: Path = Path("/proc/self")) -> Path:
    """Where the controller is mounted.

    Parameters
    ----------
    proc : Path
        Where to read, for tests.

    Raises
    ------
    EnvironmentFailure
        It is not, or has no throttle.
    """
    for mount in cgroup_mounts(proc):
        if "blkio" in mount.options and (mount.folder / _FILES[0]).exists():
            return mount.folder
    raise EnvironmentFailure("a slow disk needs the blkio controller of cgroup v1, with its throttle")


class Throttle:
    """Reading and writing of a device limited to `bytes_per_s` each, from the constructor to `close`."""

    def __init__(self, device: Path, bytes_per_s: int) -> None:
        folder = find_blkio()
        number = os.stat(device).st_rdev
        self._name = f"{os.major(number)}:{os.minor(number)}"
        self._set: list[Path] = []
        try:
            for name in _FILES:
                path = folder / name
                self._set.append(path)
                path.write_text(f"{self._name} {bytes_per_s}")
        except OSError as error:
            self.close()
            raise EnvironmentFailure(f"{device} cannot be throttled: {error.strerror}") from error

    def close(self) -> None:
        """As fast as it is, again."""
        while self._set:
            self._set.pop().write_text(f"{self._name} 0")
