"""A loop device of our own: a file as a block device.

Owns: one device, which nobody else had, detached by `close`. Needs root and losetup (util-linux).
Takes no locks, has no policy.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from coldmem.errors import EnvironmentFailure

_GONE_S_MAX = 5.0  # somebody, such as udev, may still have it open


def _losetup(*arguments: str) -> str:
    """What it printed; EnvironmentFailure with what it said when it failed."""
    program = shutil.which("losetup")
    if program is None:
        raise EnvironmentFailure("there is no losetup: install the package util-linux or mount")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailure(done.stderr.strip() or f"losetup ended with {done.returncode}")
    return done.stdout.strip()


class LoopDevice:
    """`file` as a block device, made by the constructor.

    Attributes
    ----------
    path : Path
        The device.
    direct : bool
        What is read and written goes to the file at once, with no copy in the page cache. It is asked
        for, and a file system that has no direct I/O does without.
    """

    def __init__(self, file: Path) -> None:
        self._attached = False
        self.path = Path(_losetup("--find", "--show", "--direct-io=on", str(file)))
        self._attached = True
        self._sys = Path("/sys/block") / self.path.name
        try:
            self.direct = (self._sys / "loop" / "dio").read_text().strip() == "1"
        except OSError:
            self.direct = False

    def close(self) -> None:
        """Detach it. What was written is in the file."""
        if not self._attached:
            return
        _losetup("--detach", str(self.path))
        end = time.monotonic() + _GONE_S_MAX
        while (self._sys / "loop").exists():
            if time.monotonic() > end:
                raise EnvironmentFailure(f"{self.path} cannot be detached: it is in use")
            time.sleep(0.02)
        self._attached = False
