"""A Redis server of our own for ``bench cache``: in its own folder, on a Unix socket, nothing else.

Owns, inside ``with``: one process. It has ended when the block is left, also on errors. No TCP port is
opened, nothing is saved. Takes no locks.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from coldmem.errors import EnvironmentFailure

PROGRAM = "redis-server"
READY_S = 30.0
END_S = 10.0


def missing() -> str:
    """Why no server can be started here; empty: it can."""
    return "" if shutil.which(PROGRAM) else f"there is no {PROGRAM}: apt install {PROGRAM}"


class RedisServer:
    """Makes itself ready for a ``with`` block.

    Parameters
    ----------
    folder : Path
        Where the socket and the log go.
    limit_bytes : int
        ``maxmemory``, with the policy allkeys-lru; 0: no limit.
    """

    def __init__(self, folder: Path, limit_bytes: int = 0) -> None:
        self.socket = str(folder / "socket")
        self.pid = 0
        self._log = folder / "log"
        self._words = [
            PROGRAM, "--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(folder), "--daemonize", "no",
            "--maxmemory", str(limit_bytes), "--maxmemory-policy", "allkeys-lru",
        ]
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        if missing():
            raise EnvironmentFailure(missing())
        with ExitStack() as undo:
            log = undo.enter_context(self._log.open("w+b"))
            # In a session of its own, so that Ctrl-C reaches us alone and the order of ending is ours.
            child = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            undo.callback(_end, child)
            self.pid = child.pid
            self._wait(child)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + READY_S
        while not _answers(self.socket):
            if child.poll() is not None or time.monotonic() > until:
                said = self._log.read_text(errors="replace").strip()
                raise EnvironmentFailure(f"{PROGRAM} does not serve: {said or 'no message'}")
            time.sleep(0.005)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(READY_S)
        try:
            there.connect(path)
            there.sendall(b"PING\r\n")
            return there.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
