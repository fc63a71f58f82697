"""The server: listens, greets, serves, and ends in good order.

Owns: the Zswap and its swap file, the device, the listening sockets, and of each client its socket
and threads.
Guarantees: `close` returns when every thread has left, every socket is closed and the name of the
Unix socket is gone; requests that were taken are answered first, for up to `PATIENCE_S`. A client that
misbehaves loses its own connection and nothing else. Everything is gone with the process: this is
memory, not a disk.
Assumes: one process; a child made by fork must not use it.
Locks: `_lock` guards the set of clients. Native locks: see block.pxd and serve.pxd.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from coldmem.errors import ClosedError, UsageError
from coldmem.linux.memory import lock_all, unlock_all
from coldmem.linux.usage import process_cpu_s
from coldmem.linux.wait import wait_readable
from coldmem.nbd import handshake
from coldmem.nbd.device import Device
from coldmem.nbd.listen import tcp_listener, unix_listener, uri
from coldmem.nbd.mounted import MountedFile
from coldmem.nbd.recorded import trace_of
from coldmem.nbd.serve import Connection
from coldmem.nbd.trace import Trace
from coldmem.units import parse_bytes
from coldmem.zswap import SwapFile, Zswap

PATIENCE_S = 5.0
RECOMPRESS_S = 10.0
# Of replies that a client on a Unix socket has not taken yet; the kernel's limit may make it less. With
# the default (208 KiB, three replies of 64K) threads wait for the client instead of decompressing.
SEND_BUFFER_BYTES = 2 << 20
THREADS_MAX = 64
# Entries above those of the device's units: what the shards have been handed and do not use yet, and
# old versions that somebody still reads.
ENTRIES_SPARE = 1 << 17


@dataclass(eq=False)
class _Client:
    sock: socket.socket
    thread: threading.Thread | None = None
    connection: Connection | None = None
    closing: bool = field(default=False)


class Server:
    """Compressed memory as a network block device.

    Parameters
    ----------
    size : int or str
        Bytes of the device, or text such as "10G".
    socket : path, optional
        Listen on a Unix socket of this name.
    tcp : int or str, optional
        Listen at this port, or "HOST:PORT". Without a host on the loopback only: there is neither a
        password nor encryption.
    file : path, optional
        Be a regular file there, mounted over an empty one or over a name that is not taken, for
        its owner only. Needs root.
    memory_max : int or str, default "20%"
        Most bytes of compressed data in RAM; a percentage is of the machine's memory.
    swapfile : path, optional
        Where data goes that no longer fits: a directory, or a name in one that is not there yet. The
        file never gets a name of its own and is gone with the server.
    swap_max : int or str, optional
        Most bytes in the swap file. Default: the size of the device.
    unit_bytes : int or str
        4K, 16K or 64K: what is compressed at a time.
    codec, cold_codec : str
        See `coldmem.codecs.get_codec`. What stays cold is packed once more with the second.
    locking, magazines, pools, shrinker, shrinker_thread, accept_threshold, lock_statistics
        As for `coldmem.zswap.Zswap`.
    export : str
        Its name. Clients that ask for the empty name get it too.
    read_only : bool
        Refuse every change.
    threads : int, optional
        Threads of each connection. Default: one per CPU, four at most.
    connections_max : int
        Clients at one time; more are turned away.
    record : bool
        Keep a record of stores, loads and trims, for `trace`.
    lock_memory : bool
        Keep the whole process in RAM, as a server must be that swaps for its own machine.

    Raises
    ------
    UsageError
        An argument is wrong, or no address is given.
    EnvironmentFailure
        The system refuses the memory, the swap file, the address, or the locking of memory.
    """

    def __init__(
        self, size: int | str, *, socket: str | os.PathLike[str] | None = None,
        tcp: int | str | None = None, file: str | os.PathLike[str] | None = None,
        memory_max: int | str = "20%",
        swapfile: str | os.PathLike[str] | None = None, swap_max: int | str | None = None,
        unit_bytes: int | str = 4096, codec: str = "lz4", cold_codec: str | None = None,
        locking: str = "handle", magazines: bool = False, pools: int = 1,
        shrinker: str = "referenced", shrinker_thread: bool = True, accept_threshold: float = 0.9,
        lock_statistics: bool = False, export: str = "", read_only: bool = False,
        threads: int | None = None, connections_max: int = 64, record: bool = False,
        lock_memory: bool = False,
    ) -> None:
        size_bytes, unit = parse_bytes(size), parse_bytes(unit_bytes)
        if socket is None and tcp is None and file is None:
            raise UsageError("nowhere to serve: give socket=, tcp= or file=")
        if threads is None:
            threads = min(4, len(os.sched_getaffinity(0)))
        if not 1 <= threads <= THREADS_MAX:
            raise UsageError(f"{threads} threads for a connection: choose 1 to {THREADS_MAX}")
        if len(export.encode()) > 255:
            raise UsageError("the name of an export may have 255 bytes")
        if swap_max is not None and swapfile is None:
            raise UsageError("swap_max= is for a swap file: give swapfile= as well")
        self._threads = threads
        self._connections_max = connections_max
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._clients: set[_Client] = set()
        self._workers: list[threading.Thread] = []
        self._started = time.monotonic()
        self._turned_away = 0
        self._last: dict[str, Any] | None = None
        self._recording = record
        with contextlib.ExitStack() as undo:
            if lock_memory:
                lock_all()
                undo.callback(unlock_all)
            swap = None
            if swapfile is not None:
                swap = undo.enter_context(SwapFile(
                    size_bytes if swap_max is None else swap_max, unit_bytes=unit,
                    directory=_directory_of(os.fspath(swapfile)),
                ))
            units = -(-size_bytes // unit) if unit else 0
            self._zswap = undo.enter_context(Zswap(
                unit_bytes=unit, max_pool=memory_max, accept_threshold=accept_threshold, codec=codec,
                cold_codec=cold_codec, swap=swap, shrinker=shrinker, shrinker_thread=shrinker_thread,
                locking=locking, magazines=magazines, pools=pools, lock_statistics=lock_statistics,
                entries_max=min(max(units, 1) + ENTRIES_SPARE, (1 << 32) - 2),
            ))
            self._swap = swap
            self._device = Device(self._zswap, size_bytes, record)
            self._export = handshake.Export(export, size_bytes, unit, read_only)
            self._listeners = [*self._listen(socket, tcp, undo)]
            self._bell = undo.enter_context(_Bell())
            self._file = None
            if file is not None:
                self._file = MountedFile(self._device, os.fspath(file), threads, read_only)
                undo.callback(self._file.close)
            self._undo = undo.pop_all()
        self._cold = cold_codec is not None
        # Its threads must not run any more when the interpreter takes itself apart.
        atexit.register(self.close)

    def _listen(
        self, path: str | os.PathLike[str] | None, tcp: int | str | None, undo: contextlib.ExitStack
    ) -> Iterator[socket.socket]:
        if path is not None:
            name = os.path.abspath(os.fspath(path))
            made = undo.enter_context(unix_listener(name))
            undo.callback(_unlink_own, name, os.stat(name).st_ino)
            yield made
        if tcp is not None:
            yield undo.enter_context(tcp_listener(tcp))

    # -- life --------------------------------------------------------------------------------------
    def start(self) -> Self:
        """Begin to accept clients; returns at once."""
        if self._closing.is_set():
            raise ClosedError("this server is closed")
        if not self._workers:
            self._run("accept", self._accept)
            if self._cold:
                self._run("recompress", self._recompress)
        return self

    def _run(self, name: str, body: Any) -> None:
        thread = threading.Thread(target=body, name=f"coldmem-nbd-{name}", daemon=True)
        thread.start()
        self._workers.append(thread)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer what was taken, then end every connection and forget all data. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        self._bell.ring()
        if self._file is not None:
            self._file.close(PATIENCE_S)
        for worker in self._workers:
            worker.join()
        with self._lock:
            clients = [*self._clients]
            for client in clients:
                client.closing = True
                if client.connection is not None:
                    client.connection.end()
                else:
                    _shut(client.sock)
        until = time.monotonic() + PATIENCE_S
        for client in clients:
            if client.thread is not None:
                client.thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            late = [*self._clients]
            for client in late:
                _shut(client.sock)
        for client in late:
            if client.thread is not None:
                client.thread.join()
        self._last = self.stats()
        self._undo.close()

    # -- what it is doing --------------------------------------------------------------------------
    @property
    def uris(self) -> list[str]:
        """How clients name it, one for each place where it listens."""
        return [uri(listener, self._export.name) for listener in self._listeners]

    @property
    def file(self) -> str | None:
        """The file that it is, if any."""
        return None if self._file is None else self._file.path

    @property
    def size_bytes(self) -> int:
        """Bytes of the device."""
        return self._device.size_bytes

    def stats(self) -> dict[str, Any]:
        """What is stored and what was done; after `close`, as it was at the end. Ready for JSON.

        ``device`` counts requests by command, bytes and failures; ``zswap``, ``counters``, ``locks``
        and ``swap`` are those of the engine (`coldmem.zswap.Zswap`), ``user_s`` and ``system_s`` the
        CPU time of this process.
        """
        if self._last is not None:
            return self._last
        user_s, system_s = process_cpu_s()
        locks = self._zswap.lock_stats()
        return {
            "size_bytes": self._device.size_bytes,
            "unit_bytes": self._device.unit_bytes,
            "locking": self._zswap.locking,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "user_s": round(user_s, 3),
            "system_s": round(system_s, 3),
            "connections_open": len(self._clients),
            "connections_turned_away": self._turned_away,
            "device": self._device.counts(),
            "zswap": self._zswap.stats(),
            "counters": self._zswap.counters(),
            "locks": {kind: dict(acquisitions=one.acquisitions, contended=one.contended,
                                 wait_ns=one.wait_ns) for kind, one in locks.items()},
            "swap": None if self._swap is None else self._swap.stats(),
        }

    def trace(self, machine: dict[str, object] | None = None) -> Trace:
        """What was stored, loaded and trimmed, once the server is closed.

        Parameters
        ----------
        machine : dict, optional
            Facts about the machine, ready for JSON.

        Raises
        ------
        UsageError
            It was not made with ``record=True``, or is not closed.
        """
        if not self._recording:
            raise UsageError("nothing was recorded: make the server with record=True")
        if self._last is None:
            raise UsageError("the record is whole when the server is closed: close it first")
        return trace_of(self._device, str(self._last["zswap"]["codec"]), machine)

    # -- threads -----------------------------------------------------------------------------------
    def _accept(self) -> None:
        while not self._closing.is_set():
            ready = wait_readable([*(one.fileno() for one in self._listeners), self._bell.fileno()], -1)
            for listener in self._listeners:
                if listener.fileno() in ready and not self._closing.is_set():
                    self._greet(listener)

    def _greet(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            # The client left already, or there is no descriptor free: do not spin on it.
            self._closing.wait(0.05)
            return
        client = _Client(sock)
        with self._lock:
            full = len(self._clients) >= self._connections_max
            if full:
                self._turned_away += 1
            else:
                self._clients.add(client)
        try:
            if full:
                raise RuntimeError("too many clients")
            client.thread = threading.Thread(
                target=self._serve, args=(client,), name="coldmem-nbd-client", daemon=True)
            client.thread.start()
        except RuntimeError:  # also when no thread can be had
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        with self._lock:
            self._clients.discard(client)
        client.sock.close()

    def _serve(self, client: _Client) -> None:
        try:
            if client.sock.family != socket.AF_UNIX:
                client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            else:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            agreed = handshake.shake_hands(client.sock, self._export, self._closing.is_set)
            if agreed is None:
                return
            client.sock.settimeout(None)
            connection = Connection(self._device, client.sock.fileno(), agreed.structured,
                                    agreed.allocation, self._export.read_only)
            with self._lock:
                if client.closing:
                    return
                client.connection = connection
            self._transmit(connection)
        except (handshake.HandshakeError, OSError, MemoryError):
            pass  # its connection ends; nobody else is concerned
        finally:
            self._drop(client)

    def _transmit(self, connection: Connection) -> None:
        helpers = []
        try:
            for _ in range(self._threads - 1):
                helper = threading.Thread(target=_help, args=(connection,), name="coldmem-nbd-helper",
                                          daemon=True)
                helper.start()
                helpers.append(helper)
        except RuntimeError:
            pass  # fewer will do
        try:
            connection.run()
        except MemoryError:
            connection.end(True)
        for helper in helpers:
            helper.join()

    def _recompress(self) -> None:
        while not self._closing.wait(RECOMPRESS_S):
            self._zswap.recompress()


def _help(connection: Connection) -> None:
    with contextlib.suppress(MemoryError):
        connection.run()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _unlink_own(path: str, inode: int) -> None:
    """Remove the name, unless somebody else has taken it meanwhile."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _directory_of(path: str) -> str:
    """The directory that a swap file named `path` would be in."""
    if os.path.isdir(path):
        return path
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists already: for the swap file give a directory, or a name that is not taken. "
            "It is made without a name, so that nothing is left behind"
        )
    return os.path.dirname(path) or "."


class _Bell:
    """Wakes somebody who waits for descriptors."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()

    def fileno(self) -> int:
        return self._near.fileno()

    def ring(self) -> None:
        self._far.send(b"!")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._near.close()
        self._far.close()
