"""A server as the kernel's swap: a file that it serves, or nbdfuse makes of its export; a loop device.

Owns, until `NbdDevice.close`: one process or two, in sessions of their own (so that Ctrl-C at a terminal
reaches neither), a FUSE mount, a loop device; all gone after, in the opposite order. Needs root.
Assumes: swap on the device is off before it is closed. No process is in a cgroup that its memory could
be reclaimed for: the build waits for them, they must never wait for the build.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from coldmem.errors import EnvironmentFailure
from coldmem.linux.loop import LoopDevice

START_S_MAX = 20.0
END_S_MAX = 20.0
STEP_S = 0.02
LAST_WORDS = 800  # of a process that failed, in characters


def mounted() -> set[str]:
    """Where something is mounted."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    # Blanks and the like are written as octal numbers there.
    return {line.split()[1].encode().decode("unicode_escape") for line in lines}


class Helper:
    """A process that serves while the device is there."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._words, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def check(self) -> None:
        """EnvironmentFailure with its last words when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise EnvironmentFailure(f"{self.name} has ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        end = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, end - LAST_WORDS))
        return self._words.read().decode(errors="replace").strip() or "no message"

    def wait(self, seconds_max: float) -> bool:
        """Whether it ended in time."""
        try:
            self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """Ask it to end; make it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            if not self.wait(END_S_MAX):
                self._process.kill()
                self._process.wait()
        self._words.close()


def file_of(folder: Path) -> Path:
    """The file that becomes a block device, in a folder of the caller's."""
    return folder / "export"


class NbdDevice:
    """What `command` serves is a block device.

    Parameters
    ----------
    command : sequence of str
        Serves the file `file_of(folder)` itself, or on a Unix socket.
    folder : Path
        On a disk.
    socket_path : Path, optional
        The socket; nbdfuse then makes that file of it.

    Attributes
    ----------
    path : Path
        The block device.
    server : Helper
    fuse : Helper or None
        The process of nbdfuse.
    direct : bool
        Whether the loop device has no page cache between.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, socket_path: Path | None = None
    ) -> None:
        self._undo = ExitStack()
        self.fuse: Helper | None = None
        file = file_of(folder)
        try:
            if socket_path is None:
                self._undo.callback(self._clear, file)
            self.server = Helper("the server", command)
            self._undo.callback(self.server.stop)
            if socket_path is not None:
                self._wait(lambda: _answers(socket_path), self.server, "the server does not answer")
                file.touch(0o600)
                self._undo.callback(file.unlink)
                self.fuse = Helper("nbdfuse", ["nbdfuse", str(file), "--unix", str(socket_path)])
                self._undo.callback(self._unmount, file, self.fuse)
            self._wait(lambda: str(file) in mounted(), self.fuse or self.server, "there is no file")
            loop = LoopDevice(file)
            self._undo.callback(loop.close)
            self.path, self.direct = loop.path, loop.direct
        except BaseException:
            self._undo.close()
            raise

    @staticmethod
    def _wait(done: Callable[[], bool], helper: Helper, problem: str) -> None:
        end = time.monotonic() + START_S_MAX
        while not done():
            helper.check()
            if time.monotonic() > end:
                raise EnvironmentFailure(f"{problem}: {helper.last_words()}")
            time.sleep(STEP_S)

    @staticmethod
    def _unmount(file: Path, fuse: Helper) -> None:
        """nbdfuse ends when its mount does; where that fails, the other way round."""
        end = time.monotonic() + END_S_MAX
        # A mount whose process has died looks like no mount to those who only ask for its state.
        while str(file) in mounted():
            done = subprocess.run(["umount", str(file)], capture_output=True, check=False)
            if done.returncode and time.monotonic() > end:
                fuse.kill()
                subprocess.run(["umount", "--lazy", str(file)], capture_output=True, check=False)
            time.sleep(STEP_S)
        fuse.wait(END_S_MAX)
        fuse.stop()

    @staticmethod
    def _clear(file: Path) -> None:
        """What a server leaves that was killed; one that ended by itself has left nothing."""
        if str(file) in mounted():
            subprocess.run(["umount", "--lazy", str(file)], capture_output=True, check=False)
        file.unlink(missing_ok=True)

    def _helpers(self) -> list[Helper]:
        return [self.server] if self.fuse is None else [self.server, self.fuse]

    def check(self) -> None:
        """EnvironmentFailure when one of the processes has ended."""
        for helper in self._helpers():
            helper.check()

    def abort(self) -> None:
        """Nothing is served any more: who waits for it gets an error instead of waiting on."""
        self._helpers()[-1].kill()

    def close(self) -> None:
        """Take all of it down."""
        self._undo.close()


def _answers(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(socket_path))
        except OSError:
            return False
    return True


class ServerStats:
    """What ``coldmem nbd --stats-file`` tells when it is asked with a signal.

    Attributes
    ----------
    last : dict
        The newest answer.
    """

    def __init__(self, server: Helper, path: Path) -> None:
        self.last: dict[str, Any] = {}
        self._server, self._path = server, path
        self._seen = self._mark()
        self._asked = False  # a question is not answered yet
        self._lock = threading.Lock()

    def _mark(self) -> int:
        """Another number for each answer: the server writes a new file and renames it."""
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return -1

    def _read(self) -> bool:
        mark = self._mark()
        if mark == self._seen:
            return False
        self.last, self._seen = json.loads(self._path.read_text()), mark
        return True

    def ask(self, wait: bool) -> None:
        """Take the answer to the question before, if there is one, and ask again.

        Parameters
        ----------
        wait : bool
            For the answer to this very question.

        Raises
        ------
        EnvironmentFailure
            The server has ended, or does not answer.
        """
        with self._lock:
            if wait and self._asked:
                self._wait()
            self._asked = self._asked and not self._read()
            if not self._asked:
                self._server.signal(signal.SIGUSR1)
                self._asked = True
            if wait:
                self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + START_S_MAX
        while not self._read():
            self._server.check()
            if time.monotonic() > end:
                raise EnvironmentFailure("the NBD server does not tell its statistics")
            time.sleep(STEP_S)
        self._asked = False
