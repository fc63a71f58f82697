"""System calls on managed buffers: they work, whether the buffer is in RAM or not.

With delivery "handler" the kernel waits for our handler. With "sigbus" a call would fail with EFAULT, or
come back short, at the first page that is not there, so the calls of the C library are caught and
the buffer is pinned meanwhile. What is tested without a pin here must work with both; what passes by
the C library or goes on after the call (io_uring) is tested pinned.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem import Memory

Make = Callable[..., Memory]
MIB = 1 << 20
KIB = 1 << 10
N = 2 * MIB


def noise(nbytes: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def send_away(memory: Memory, array: np.ndarray) -> None:
    """A handler thread may have the last units in hand for a moment yet."""
    end = time.monotonic() + 10
    while memory.stats()["hot_bytes"] and time.monotonic() < end:
        memory.evict(array)
    assert memory.stats()["hot_bytes"] == 0


Away = Callable[[], tuple[Memory, np.ndarray, np.ndarray]]


@pytest.fixture
def away(make_memory: Make) -> Iterator[Away]:
    """Call it for a Memory, an array of N bytes in it that is not in RAM, and what is in it."""
    memory = make_memory("16M", "32M")

    def make() -> tuple[Memory, np.ndarray, np.ndarray]:
        want = noise(N)
        array = memory.array(want)
        send_away(memory, array)
        return memory, array, want

    yield make
    memory.check_valid("full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(noise(N, 6).tobytes())
    return path


NEW = noise(N, 6)


def read_object(array: np.ndarray, path: Path) -> int:
    with open(path, "rb") as file:
        return file.readinto(array.data)


def read_unbuffered(array: np.ndarray, path: Path) -> int | None:
    with open(path, "rb", buffering=0) as file:
        return file.readinto(array.data)


def read_vector(array: np.ndarray, path: Path) -> int:
    with open(path, "rb") as file:
        return os.readv(file.fileno(), [array[: N // 2], array[N // 2 :]])


def read_at(array: np.ndarray, path: Path) -> int:
    with open(path, "rb") as file:
        return os.preadv(file.fileno(), [array], 0)


def receive(array: np.ndarray, path: Path) -> int:
    """All of a file through a socket, as a program does it: as often as it takes."""
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (theirs.sendall(NEW), theirs.close()))
    sender.start()
    done = 0
    try:
        while done < N:
            got = ours.recv_into(array[done:])
            if got == 0:
                break
            done += got
    finally:
        ours.close()  # or the sender would wait for ever
        try:
            sender.join()
        finally:
            theirs.close()
    return done


def from_file(array: np.ndarray, path: Path) -> int:
    array[:] = np.fromfile(path, np.uint8)
    return N


INTO = [read_object, read_unbuffered, read_vector, read_at, receive, from_file]


@pytest.fixture(autouse=True)
def quiet_sender() -> Iterator[None]:
    """The sender of `receive` may find its socket closed."""
    hook = threading.excepthook
    threading.excepthook = lambda args: (
        None if issubclass(args.exc_type, OSError) else hook(args)
    )
    yield
    threading.excepthook = hook


@pytest.mark.parametrize("call", INTO)
def test_reading_into_a_pinned_array(
    away: Away, path: Path, call: Callable[..., Any]
) -> None:
    memory, array, _ = away()
    with memory.pinned(array):
        assert call(array, path) == N
        memory.evict(array)
    memory.evict(array)
    assert np.array_equal(array, NEW)


@pytest.mark.parametrize("call", INTO)
def test_reading_into_an_array_that_is_away(
    away: Away, path: Path, call: Callable[..., Any]
) -> None:
    memory, array, _ = away()
    assert call(array, path) == N
    memory.evict(array)
    assert np.array_equal(array, NEW)


@pytest.mark.parametrize("call", INTO)
def test_reading_into_an_array_of_which_half_is_away(
    away: Away, path: Path, call: Callable[..., Any]
) -> None:
    """Where a short count is likely: the first pages are there."""
    _, array, _ = away()
    array[: N // 2] += 0
    assert call(array, path) == N
    assert np.array_equal(array, NEW)


# -- out of arrays ----------------------------------------------------------------------------------
def write_object(array: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:
        assert file.write(array.data) == N


def write_tofile(array: np.ndarray, path: Path) -> None:
    array.tofile(path)


def write_save(array: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, array)
    loaded = np.load(path)
    with open(path, "wb") as file:
        file.write(loaded.tobytes())


def send(array: np.ndarray, path: Path) -> None:
    ours, theirs = socket.socketpair()
    got = bytearray()

    def receiver() -> None:
        while piece := theirs.recv(1 << 16):
            got.extend(piece)

    thread = threading.Thread(target=receiver)
    thread.start()
    try:
        ours.sendall(array)
    finally:
        ours.close()
        thread.join()
        theirs.close()
    path.write_bytes(got)


def write_bytes(array: np.ndarray, path: Path) -> None:
    path.write_bytes(array.tobytes())


OUT = [write_object, write_tofile, write_save, send, write_bytes]


@pytest.mark.parametrize("call", OUT)
def test_writing_out_of_a_pinned_array(
    away: Away, tmp_path: Path, call: Callable[..., Any]
) -> None:
    memory, array, want = away()
    with memory.pinned(array):
        call(array, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == want.tobytes()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("call", OUT)
def test_writing_out_of_an_array_that_is_away(
    away: Away, tmp_path: Path, call: Callable[..., Any],
    half: bool,
) -> None:
    _, array, want = away()
    if half:
        assert array[: N // 2].sum() > 0
    call(array, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == want.tobytes()


# -- devices ----------------------------------------------------------------------------------------
@pytest.fixture
def direct(tmp_path: Path) -> Iterator[int]:
    """A file descriptor that reads NEW past the page cache."""
    path = tmp_path / "direct"
    path.write_bytes(NEW.tobytes())
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT on the file system of {tmp_path}: {os.strerror(error.errno)}")
    yield fd
    os.close(fd)


def test_a_direct_read_into_a_pinned_array(
    away: Away, direct: int
) -> None:
    memory, array, _ = away()
    with memory.pinned(array):
        stop = threading.Event()

        def evict() -> None:
            while not stop.is_set():
                memory.evict(array)

        thread = threading.Thread(target=evict)
        thread.start()
        for _ in range(10):
            array[:] = 0
            assert os.preadv(direct, [array], 0) == N
            assert np.array_equal(array, NEW)
        stop.set()
        thread.join()
    memory.evict(array)
    assert np.array_equal(array, NEW)


def test_a_direct_read_into_an_array_that_is_away(
    away: Away, direct: int
) -> None:
    _, array, _ = away()
    assert os.preadv(direct, [array], 0) == N
    assert np.array_equal(array, NEW)


class Ring:
    """A real io_uring with one registered buffer, by system calls alone."""

    SETUP, ENTER, REGISTER = 425, 426, 427
    READ_FIXED = 4

    def __init__(self, array: np.ndarray) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        params = ctypes.create_string_buffer(120)
        self.fd = self._call(self.SETUP, 4, params)
        self.maps: list[mmap.mmap] = []
        try:
            sq = struct.unpack_from("10I", params, 40)  # head tail mask entries flags dropped array
            cq = struct.unpack_from("10I", params, 80)  # head tail mask entries overflow cqes
            self.sq = self._map(sq[6] + 4 * 4, 0)
            self.cq = self._map(cq[5] + 8 * 16, 0x8000000)
            self.sqes = self._map(4 * 64, 0x10000000)
            self.sq_tail, self.sq_array = sq[1], sq[6]
            self.cq_head, self.cq_tail, self.cq_mask, self.cqes = cq[0], cq[1], cq[2], cq[5]
            iovec = struct.pack("QQ", array.ctypes.data, array.nbytes)
            self._call(self.REGISTER, self.fd, 0, iovec, 1)
        except BaseException:
            self.close()
            raise
        self.address = array.ctypes.data

    def _call(self, *arguments: Any) -> int:
        result = int(self.libc.syscall(*(
            ctypes.c_long(a) if isinstance(a, int) else a for a in arguments
        )))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _map(self, nbytes: int, offset: int) -> mmap.mmap:
        self.maps.append(mmap.mmap(self.fd, nbytes, mmap.MAP_SHARED, offset=offset))
        return self.maps[-1]

    def read(self, fd: int, nbytes: int) -> int:
        """One read of nbytes from the start of fd into the buffer: its result."""
        tail = struct.unpack_from("I", self.sq, self.sq_tail)[0]
        struct.pack_into("BBHiQQIIQH", self.sqes, 0, self.READ_FIXED, 0, 0, fd, 0, self.address,
                         nbytes, 0, 7, 0)
        struct.pack_into("I", self.sq, self.sq_array + 4 * (tail & 3), 0)
        struct.pack_into("I", self.sq, self.sq_tail, tail + 1)
        self._call(self.ENTER, self.fd, 1, 1, 1, None, 0)
        head = struct.unpack_from("I", self.cq, self.cq_head)[0]
        _, result = struct.unpack_from("Qi", self.cq, self.cqes + 16 * (head & 7))
        struct.pack_into("I", self.cq, self.cq_head, head + 1)
        return int(result)

    def close(self) -> None:
        for one in self.maps:
            one.close()
        os.close(self.fd)


def test_an_io_uring_buffer_in_a_pinned_array(
    away: Away, direct: int
) -> None:
    """The kernel holds the pages from registration on: they must be the same when the data comes."""
    memory, array, _ = away()
    with memory.pinned(array):
        try:
            ring = Ring(array)
        except OSError as error:
            pytest.skip(f"io_uring is not to be had here: {error}")
        try:
            for _ in range(5):
                array[:] = 0
                memory.evict(array)
                other = memory.zeros(20 * MIB, np.uint8)  # everything else goes out
                other[::4096] = noise(len(other) // 4096)
                assert ring.read(direct, N) == N
                assert np.array_equal(array, NEW)
                del other
        finally:
            ring.close()
    memory.evict(array)
    assert np.array_equal(array, NEW)
