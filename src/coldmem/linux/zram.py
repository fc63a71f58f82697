"""A zram device of our own: compressed memory as a block device.

Owns: one device, which nobody else had, and the kernel's module where it had to be loaded; both go
with `close`. Needs root. Takes no locks.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

from coldmem.errors import EnvironmentFailure

CONTROL = Path("/sys/class/zram-control")
_BUSY_S_MAX = 5.0  # udev looks at a new device, and for so long it cannot be removed


def _modprobe(*arguments: str) -> str:
    """What it says when it fails; empty when it worked."""
    program = shutil.which("modprobe")
    if program is None:
        return "there is no modprobe"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "modprobe failed"


class ZramModule:
    """zram in the kernel, for the length of a ``with`` block."""

    def __init__(self) -> None:
        self._loaded = False

    def __enter__(self) -> ZramModule:
        if not CONTROL.exists():
            problem = _modprobe("zram")
            self._loaded = not problem
            if not CONTROL.exists():
                raise EnvironmentFailure(f"this kernel has no zram: {problem or 'no zram-control'}")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loaded:
            _modprobe("-r", "zram")
            self._loaded = False


class Zram:
    """A device of `size_bytes`, made by the constructor.

    Attributes
    ----------
    path : Path
        The block device.
    stat_path : Path
        ``mm_stat``: original bytes, compressed bytes, bytes of memory used, and more.
    """

    def __init__(self, size_bytes: int, codec: str, folder: Path) -> None:
        self.number = int((CONTROL / "hot_add").read_text())  # reading it makes a device
        self._sys = Path(f"/sys/block/zram{self.number}")
        self.stat_path = self._sys / "mm_stat"
        self._node: Path | None = None
        try:
            known = (self._sys / "comp_algorithm").read_text().replace("[", "").replace("]", "")
            if codec not in known.split():
                raise EnvironmentFailure(f"zram has no {codec} here, only {known.strip()}")
            (self._sys / "comp_algorithm").write_text(codec)
            (self._sys / "disksize").write_text(str(size_bytes))
            self.path = self._find_node(folder)
        except BaseException:
            self.close()
            raise

    def _find_node(self, folder: Path) -> Path:
        path = Path(f"/dev/zram{self.number}")
        major, minor = map(int, (self._sys / "dev").read_text().split(":"))
        if path.exists() and path.stat().st_rdev == os.makedev(major, minor):
            return path
        self._node = folder / f"zram{self.number}"  # nobody here makes nodes in /dev
        os.mknod(self._node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
        return self._node

    def close(self) -> None:
        """Forget the content and remove the device."""
        if self.number < 0:
            return
        end = time.monotonic() + _BUSY_S_MAX
        while True:
            try:
                (self._sys / "reset").write_text("1")
                (CONTROL / "hot_remove").write_text(str(self.number))
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise EnvironmentFailure(
                        f"zram{self.number} cannot be removed: {error.strerror}"
                    ) from error
                time.sleep(0.02)
        self.number = -1
        if self._node is not None:
            self._node.unlink(missing_ok=True)
