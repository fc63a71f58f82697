"""A disk of our own: a file as a block device with a file system, whose traffic the kernel counts.

Owns, inside `own_disk`: the file, the loop device, the mount and the throttle. All are gone when the
block is left (short of SIGKILL); each undoing is noted before the step is done. Needs root. No locks.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from coldmem.errors import EnvironmentFailure
from coldmem.lab.build_source import require
from coldmem.linux.loop import LoopDevice
from coldmem.linux.mount import NODEV, NOSUID, mount, unmount
from coldmem.linux.throttle import Throttle

TOOLS = {"losetup": "mount", "mkfs.ext4": "e2fsprogs"}
_SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the device has


@dataclass(frozen=True, slots=True)
class OwnDisk:
    """The disk while it is there.

    Attributes
    ----------
    folder : Path
        Where it is mounted.
    device : Path
    """

    folder: Path
    device: Path

    def traffic(self) -> tuple[int, int]:
        """Bytes read from and written to the device so far."""
        fields = Path("/sys/block", self.device.name, "stat").read_text().split()
        return int(fields[2]) * _SECTOR_BYTES, int(fields[6]) * _SECTOR_BYTES


@contextmanager
def own_disk(where: str | os.PathLike[str], nbytes: int, bytes_per_s: int | None = None
             ) -> Iterator[OwnDisk]:
    """An empty ext4 file system in a file in the folder `where`.

    Parameters
    ----------
    where : path
        A folder on a disk.
    nbytes : int
        Size of the file system; the file has holes, and takes what is written.
    bytes_per_s : int, optional
        Limit of reading, and of writing. None: as fast as it goes.

    Raises
    ------
    EnvironmentFailure
        No root, tools that are missing, or the kernel refused.
    """
    if os.geteuid() != 0:
        raise EnvironmentFailure("a disk of our own needs root")
    require(TOOLS)
    with ExitStack() as undo:
        room = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="coldmem-disk-", dir=where)))
        file, folder = room / "disk", room / "mount"
        folder.mkdir()
        with file.open("wb") as made:
            made.truncate(nbytes)
        _make_file_system(file)
        loop = LoopDevice(file)
        undo.callback(loop.close)
        try:
            mount(str(loop.path), str(folder), "ext4", NOSUID | NODEV, "")
        except OSError as error:
            raise EnvironmentFailure(f"{loop.path} cannot be mounted: {error.strerror}") from error
        undo.callback(unmount, str(folder))
        if bytes_per_s is not None:
            throttle = Throttle(loop.path, bytes_per_s)
            undo.callback(throttle.close)
        yield OwnDisk(folder, loop.path)


def _make_file_system(file: Path) -> None:
    done = subprocess.run(
        ["mkfs.ext4", "-q", "-F", str(file)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailure(done.stderr.strip() or f"mkfs.ext4 ended with {done.returncode}")
