"""What `bench nbd` measures: coldmem's server, nbdkit's plugins memory and null, and a zram device.

Owns, inside ``with``: one process with its Unix socket, or one zram device of our own. They are gone
when the block is left, also on errors. A server is told to end, and killed when it does not.
Takes no locks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coldmem.errors import EnvironmentFailure
from coldmem.lab.nbd_client import connect, disconnect
from coldmem.linux.usage import other_cpu_s
from coldmem.linux.zram import Zram, ZramModule

COLDMEM, NBDKIT, SOCKET, ZRAM = "coldmem", "nbdkit-memory", "nbdkit-null", "kernel-zram"
READY_S = 30.0
END_S = 10.0
ZRAM_CODEC = "lz4"


@dataclass(frozen=True, slots=True)
class Kind:
    """One system and how it is set up.

    Attributes
    ----------
    system : str
        One of the four.
    unit_bytes, codec
        Of coldmem; None elsewhere.
    """

    system: str
    unit_bytes: int | None = None
    codec: str | None = None

    @property
    def keeps(self) -> bool:
        """Whether what is written can be read back."""
        return self.system != SOCKET

    @property
    def is_device(self) -> bool:
        """A block device: one request at a time, no server."""
        return self.system == ZRAM


@dataclass(slots=True)
class Running:
    """A system at work."""

    kind: Kind
    size_bytes: int
    folder: Path
    pid: int | None = None
    socket_path: Path = field(default_factory=Path)
    zram: Zram | None = None

    @contextmanager
    def clients(self, count: int) -> Iterator[Sequence[int]]:
        """Descriptors, one for each of `count` clients."""
        with ExitStack() as undo:
            fds = []
            for _ in range(count):
                if self.zram is not None:
                    fd = os.open(self.zram.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
                    undo.callback(os.close, fd)
                else:
                    sock, size_bytes = connect(self.socket_path)
                    undo.callback(disconnect, sock)
                    if size_bytes != self.size_bytes:
                        raise EnvironmentFailure(
                            f"{self.kind.system} offers {size_bytes} bytes, not {self.size_bytes}")
                    fd = sock.fileno()
                fds.append(fd)
            yield fds

    def cpu_s(self) -> float | None:
        """CPU seconds of the server so far; None where the kernel does the work."""
        return None if self.pid is None else other_cpu_s(self.pid)

    def stored(self) -> dict[str, float | int | None]:
        """`ratio`, original bytes per byte of the pool, and `pool_bytes`; None: nothing is packed."""
        pool: int | None = None
        if self.zram is not None:
            pool = int(self.zram.stat_path.read_text().split()[2])
        elif self.kind.system == COLDMEM:
            pool = int(self._stats()["zswap"]["pool_used_bytes"])
        return {"pool_bytes": pool, "ratio": self.size_bytes / pool if pool else None}

    def _stats(self) -> dict[str, Any]:
        assert self.pid is not None
        path = self.folder / "stats.json"
        path.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        until = time.monotonic() + READY_S
        while not path.exists():
            if time.monotonic() > until:
                raise EnvironmentFailure("coldmem nbd wrote no statistics")
            time.sleep(0.005)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


class System:
    """Makes a `Running` for a ``with`` block.

    Parameters
    ----------
    kind : Kind
    size_bytes : int
        Of the device.
    folder : Path
        An empty directory for its socket and files.
    """

    def __init__(self, kind: Kind, size_bytes: int, folder: Path) -> None:
        self._running = Running(kind, size_bytes, folder)
        self._undo = ExitStack()

    def __enter__(self) -> Running:
        with ExitStack() as undo:
            if self._running.kind.is_device:
                self._make_device(undo)
            else:
                self._start(undo)
            self._undo = undo.pop_all()
        return self._running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    def _make_device(self, undo: ExitStack) -> None:
        if os.geteuid() != 0:
            raise EnvironmentFailure("a zram device needs root")
        undo.enter_context(ZramModule())
        try:
            device = Zram(self._running.size_bytes, ZRAM_CODEC, self._running.folder)
        except OSError as error:
            raise EnvironmentFailure(f"{error.filename}: {error.strerror}") from error
        undo.callback(device.close)
        self._running.zram = device

    def _start(self, undo: ExitStack) -> None:
        here = self._running
        here.socket_path = here.folder / "socket"
        words = _command(here.kind, here.size_bytes, here.folder)
        # In a session of its own, so that Ctrl-C reaches us alone and the order of ending is ours.
        log = undo.enter_context((here.folder / "log").open("w+b"))
        server = undo.enter_context(_Child(words, log))
        here.pid = server.pid
        until = time.monotonic() + READY_S
        while True:
            try:
                sock, _ = connect(here.socket_path)
                disconnect(sock)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if server.ended() or time.monotonic() > until:
                    said = (here.folder / "log").read_text(errors="replace").strip()
                    raise EnvironmentFailure(
                        f"{words[0]} does not serve: {said or 'no message'}") from None
                time.sleep(0.01)


class _Child:
    """A server process, for a ``with`` block."""

    def __init__(self, words: Sequence[str], log: Any) -> None:
        self._child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def ended(self) -> bool:
        return self._child.poll() is not None


def _command(kind: Kind, size_bytes: int, folder: Path) -> list[str]:
    path = str(folder / "socket")
    if kind.system == COLDMEM:
        return [
            sys.executable, "-m", "coldmem", "nbd", "--size", str(size_bytes), "--socket", path,
            "--memory-max", str(2 * size_bytes + (64 << 20)), "--unit", str(kind.unit_bytes),
            "--codec", str(kind.codec), "--stats-file", str(folder / "stats.json"),
        ]
    program = shutil.which("nbdkit")
    if program is None:
        raise EnvironmentFailure("there is no nbdkit: Debian's package has this name")
    plugin = "memory" if kind.system == NBDKIT else "null"
    return [program, "--foreground", "--exit-with-parent", "--unix", path, plugin, str(size_bytes)]
