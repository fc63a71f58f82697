"""A device as a file: the name, the mount, and the threads that serve it.

Owns, until `MountedFile.close`: the file if it had to be made, the mount over it, descriptors of
/dev/fuse, threads. Needs root.
Guarantees: after `close` the name is as it was before; threads and descriptors are gone. Who still
has the file open then gets ENOTCONN. Takes no locks.
Assumes: the process does not use the file itself, or it would wait for itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.linux import fuse
from coldmem.linux.mount import DETACH, FORCE, NODEV, NOEXEC, NOSUID, mount, unmount
from coldmem.nbd.device import Device
from coldmem.nbd.fuse import FileService

THREADS_MIN = 4  # a thread that reads from the swap file must not keep the others waiting
STEP_S = 0.02


class MountedFile:
    """`device` as a regular file at `path`, for its owner only.

    Parameters
    ----------
    path : str
        A name that is not taken, or an empty file.
    threads : int
        That serve it.
    read_only : bool
        Refuse every change.

    Raises
    ------
    UsageError
        Something else is there.
    EnvironmentFailure
        The system refuses it; without root it does.
    """

    def __init__(self, device: Device, path: str, threads: int, read_only: bool = False) -> None:
        self.path = os.path.abspath(path)
        self._threads: list[threading.Thread] = []
        self._descriptors: list[int] = []
        self._mounted = False
        with contextlib.ExitStack() as undo:
            _file_at(self.path, undo)
            self._descriptors.append(fuse.open_device())
            undo.callback(self._end_threads)
            try:
                mount("coldmem", self.path, "fuse.coldmem", NOSUID | NODEV | NOEXEC,
                      f"fd={self._descriptors[0]},rootmode={stat.S_IFREG:o},user_id={os.getuid()},"
                      f"group_id={os.getgid()}")
            except OSError as error:
                raise EnvironmentFailure(
                    f"cannot mount a file at {self.path}: {error.strerror}. It needs root (the "
                    "capability CAP_SYS_ADMIN); without it serve a socket, and show it with nbdfuse"
                ) from error
            self._mounted = True
            undo.callback(self._unmount)
            service = FileService(device, read_only)
            while len(self._descriptors) < max(THREADS_MIN, threads):
                self._descriptors.append(fuse.clone(self._descriptors[0]))
            for descriptor in self._descriptors:
                thread = threading.Thread(target=service.run, args=(descriptor,), daemon=True,
                                          name="coldmem-nbd-file")
                thread.start()
                self._threads.append(thread)
            self._undo = undo.pop_all()

    def close(self, patience_s: float = 0.0) -> None:
        """Take the file away; while others use it wait for them, `patience_s` at most. Idempotent."""
        self._unmount(patience_s)
        self._undo.close()

    def _unmount(self, patience_s: float = 0.0) -> None:
        """The mount is gone from the name, and its threads are told so."""
        end = time.monotonic() + patience_s
        while self._mounted:
            try:
                unmount(self.path)
                self._mounted = False
            except OSError as error:
                if error.errno != errno.EBUSY:
                    self._mounted = False  # somebody else has unmounted it
                elif time.monotonic() >= end:
                    with contextlib.suppress(OSError):
                        unmount(self.path, FORCE | DETACH)
                    self._mounted = False
                else:
                    time.sleep(STEP_S)

    def _end_threads(self) -> None:
        """They end by themselves when the mount is gone; each has a descriptor until then."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())


def _file_at(path: str, undo: contextlib.ExitStack) -> None:
    """An empty file to mount over; one that had to be made goes again."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise EnvironmentFailure(f"cannot make {path}: {error.strerror}") from error
        undo.callback(_unlink, path)
        return
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UsageError(
                f"{path} is a mount whose server has died: umount -l {path}, then try again"
            ) from error
        raise EnvironmentFailure(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise UsageError(f"{path} is not an empty file: choose another name")


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
