"""The device as a file: what programs and the kernel see of it, and that nothing of it is left."""

import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from unit_data import noise, text

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab.nbd_swap import mounted
from coldmem.linux import fuse
from coldmem.nbd import Server
from coldmem.nbd import mounted as mounted_module

from .conftest import descriptors, threads, until
from .test_clients import MOUNTED, as_loop, run, tools

MIB = 1 << 20
KEEP, PUNCH, ZERO_RANGE = 1, 2, 16


@pytest.fixture
def may_mount():
    """A skip with the reason where files cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file")
    if not os.path.exists(fuse.DEVICE):
        pytest.skip("this kernel has no FUSE")


@pytest.fixture
def file_of(may_mount, tmp_path):
    """`file_of(size, ...)`: the path and its server; closed and looked after at the end."""
    before = threads(), descriptors()
    made = []

    def make(size="4M", name="file", **options):
        server = Server(size, file=tmp_path / name, **{"memory_max": "64M", **options}).start()
        made.append(server)
        assert server.file == str(tmp_path / name)
        return tmp_path / name, server

    yield make
    for server in made:
        server.close()
        assert server.file not in mounted() and not os.path.exists(server.file)
    assert (threads(), descriptors()) == before


def fallocate(fd, mode, start, nbytes):
    """fallocate(2), which Python has not: 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(nbytes))
    return 0 if done == 0 else ctypes.get_errno()


def put(path, data):
    """Into the file from its start on; write_bytes would cut it."""
    with path.open("r+b") as file:
        file.write(data)


def piece(dice):
    n = dice.choice([1, 100, 512, 4096, 5000, 65536, 70_001, MIB + 5])
    return dice.choice([text, noise, lambda _, size: bytes([dice.randrange(256)]) * size])(
        dice.randrange(50), n)[:n]


@pytest.mark.parametrize(("unit", "memory"), [("4K", "64M"), ("64K", "64M"), ("16K", "1M")])
def test_reads_what_was_written(file_of, tmp_path, unit, memory):
    size = 6 * MIB - 1000  # it ends within a unit
    path, server = file_of(size, unit_bytes=unit, memory_max=memory, swapfile=tmp_path)
    model = bytearray(size)
    dice = random.Random(5)
    with open(path, "r+b", buffering=0) as file:
        for _ in range(400):
            start, kind = dice.randrange(size), dice.random()
            data = piece(dice)[: size - start]
            if kind < 0.45:
                assert os.pwrite(file.fileno(), data, start) == len(data)
                model[start : start + len(data)] = data
            elif kind < 0.6:
                mode = dice.choice([KEEP | PUNCH, ZERO_RANGE, KEEP | ZERO_RANGE])
                assert fallocate(file.fileno(), mode, start, len(data)) == 0
                model[start : start + len(data)] = bytes(len(data))
            else:
                assert os.pread(file.fileno(), len(data), start) == model[start : start + len(data)]
        os.fsync(file.fileno())
    assert path.read_bytes() == model
    server._zswap.check_valid("full")
    if memory == "1M":
        assert server.stats()["counters"]["zswpwb"] > 0, "nothing went to disk"


def test_what_it_looks_like(file_of):
    path, server = file_of(4 * MIB + 1)
    found = path.stat()
    assert found.st_size == 4 * MIB + 1 and found.st_mode == 0o100600 and found.st_nlink == 1
    assert (found.st_uid, found.st_gid, found.st_blksize) == (0, os.getgid(), 4096)
    assert os.statvfs(path).f_bsize == 4096 and str(path) in mounted()
    for refused in (lambda: os.truncate(path, 5), lambda: path.chmod(0o666),
                    lambda: os.chown(path, 5, 5)):
        with pytest.raises(PermissionError):
            refused()
    os.truncate(path, 4 * MIB + 1)  # the size that it has
    os.utime(path)
    assert path.stat().st_size == 4 * MIB + 1 and path.stat().st_mode == 0o100600
    assert server.stats()["device"]["connections"] == 0


def test_ends_and_odd_wishes(file_of):
    path, server = file_of(MIB)
    with open(path, "r+b", buffering=0) as file:
        fd = file.fileno()
        assert os.pread(fd, 100, MIB) == b"" and os.pread(fd, 100, MIB - 7) == bytes(7)
        assert os.pwrite(fd, b"x" * 100, MIB - 7) == 7, "what fits"
        with pytest.raises(OSError) as error:
            os.pwrite(fd, b"x", MIB)
        assert error.value.errno == errno.EFBIG
        assert os.pread(fd, 100, MIB - 7) == b"x" * 7
        assert fallocate(fd, 0, 0, 4096) == errno.EOPNOTSUPP, "room cannot be promised"
        assert fallocate(fd, ZERO_RANGE, MIB - 4096, 8192) in (errno.ENOSPC, errno.EFBIG)
        assert os.pread(fd, 100, MIB - 7) == b"x" * 7
        assert fallocate(fd, PUNCH | KEEP, MIB - 4096, 1 << 40) == 0, "to the end"
        assert os.pread(fd, 100, MIB - 7) == bytes(7)
    assert server.stats()["zswap"]["units"] == 0
    assert server.stats()["device"]["refused"] > 0


def test_holes_free_memory_at_once(file_of):
    path, server = file_of("8M")
    put(path, noise(1, 4 * MIB))
    assert server.stats()["zswap"]["units"] == 1024
    with path.open("r+b") as file:
        assert fallocate(file.fileno(), PUNCH | KEEP, 100, 2 * MIB) == 0
    assert server.stats()["zswap"]["units"] == 512 + 1, "a part of a unit stays"
    assert path.read_bytes() == (
        noise(1, 4 * MIB)[:100] + bytes(2 * MIB) + noise(1, 4 * MIB)[2 * MIB + 100 :] + bytes(4 * MIB))


def test_no_room_keeps_the_old_data(file_of):
    path, server = file_of("8M", memory_max="2M")
    first = noise(1, MIB)
    with open(path, "r+b", buffering=0) as file:
        file.write(first)
        with pytest.raises(OSError) as error:
            for n in range(8):
                os.pwrite(file.fileno(), noise(n + 2, MIB), 0 if n == 7 else (n + 1) * MIB)
        assert error.value.errno == errno.ENOSPC
        assert os.pread(file.fileno(), MIB, 0) == first
    assert server.stats()["device"]["no_room"] > 0


def test_read_only(file_of):
    path, _ = file_of(read_only=True)
    with pytest.raises(OSError) as error:
        path.open("r+b")
    assert error.value.errno == errno.EROFS
    assert path.read_bytes() == bytes(4 * MIB) and path.stat().st_mode == 0o100400


@pytest.mark.tsan
def test_threads_on_neighbouring_bytes(file_of):
    """Parts of the same units, from more threads than serve the file; all of it survives."""
    path, _ = file_of(MIB, memory_max="512K", swapfile="/var/tmp")

    def work(number):
        with open(path, "r+b", buffering=0) as file:
            for turn in range(3):
                for at in range(number * 512, MIB, 8 * 512):
                    os.pwrite(file.fileno(), bytes([number * 16 + turn]) * 512, at)
                    assert os.pread(file.fileno(), 512, at) == bytes([number * 16 + turn]) * 512

    errors = []

    def careful(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=careful, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert path.read_bytes() == b"".join(bytes([n * 16 + 2]) * 512 for n in range(8)) * (MIB // 4096)


def test_beside_a_socket(file_of, tmp_path):
    """Two ways to one device."""
    nbdcopy, = tools("nbdcopy")
    path, server = file_of("1M", socket=tmp_path / "socket")
    put(path, b"seen from both sides")
    run(nbdcopy, server.uris[0], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_file_system(file_of, tmp_path):
    mkfs, fsck, losetup = tools("mkfs.ext4", "e2fsck", "losetup")
    path, server = file_of("64M", memory_max="2M", swapfile=tmp_path)
    source, where = tmp_path / "files", tmp_path / "mounted"
    shutil.copytree(Path(sys.modules["coldmem"].__file__).parent / "zswap", source,
                    ignore=shutil.ignore_patterns("*.so"))
    (source / "noise").write_bytes(noise(1, 2 * MIB))
    where.mkdir()
    with as_loop(losetup, path) as loop:
        run(mkfs, "-q", loop)
        run("unshare", "--mount", "sh", "-c", MOUNTED, "sh", loop, where, source)
        run(fsck, "-fn", loop)
        stored = server.stats()["zswap"]["units"]
        run("blkdiscard", loop)
        assert server.stats()["zswap"]["units"] < stored // 4, "what is discarded is free at once"
    assert server.stats()["device"]["no_room"] == server.stats()["device"]["io_errors"] == 0


def test_close_while_it_is_in_use(file_of, monkeypatch):
    monkeypatch.setattr("coldmem.nbd.server.PATIENCE_S", 0.1)
    path, server = file_of()
    with open(path, "r+b", buffering=0) as file:
        file.write(b"data")
        server.close()
        assert not path.exists()
        with pytest.raises(OSError) as error:
            os.pread(file.fileno(), 4, 0)
        assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)


def test_what_is_there_is_not_taken(may_mount, tmp_path):
    full, empty, folder = tmp_path / "full", tmp_path / "empty", tmp_path / "folder"
    full.write_text("mine")
    empty.touch()
    folder.mkdir()
    before = descriptors(), mounted()
    for path in (full, folder):
        with pytest.raises(UsageError, match="not an empty file"):
            Server("1M", file=path)
    with pytest.raises(EnvironmentFailure, match="cannot make"):
        Server("1M", file=tmp_path / "none" / "file")
    with Server("1M", file=empty) as server:
        assert empty.stat().st_size == MIB
        with pytest.raises(UsageError, match="not an empty file"):
            Server("1M", file=empty)
        assert server.uris == []
    assert empty.stat().st_size == 0, "what was there before is there again"
    assert full.read_text() == "mine" and (descriptors(), mounted()) == before


@pytest.mark.parametrize("step", ["mount", "fuse.clone", "FileService"])
def test_a_failure_on_the_way_leaves_nothing(may_mount, tmp_path, monkeypatch, step):
    def fail(*_):
        raise PermissionError(errno.EPERM, "no")

    before = descriptors(), mounted(), threads()
    monkeypatch.setattr(mounted_module, step, fail, raising=True) if "." not in step else (
        monkeypatch.setattr(fuse, "clone", fail))
    with pytest.raises(EnvironmentFailure if step == "mount" else OSError,
                       match="nbdfuse" if step == "mount" else "no"):
        Server("1M", file=tmp_path / "file")
    assert (descriptors(), mounted(), threads()) == before and not (tmp_path / "file").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command(may_mount, tmp_path, number):
    path = tmp_path / "file"
    command = [sys.executable, "-m", "coldmem", "nbd", "--size", "8M", "--file", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == f"serving 8.0 MiB at {path}\n"
        put(path, text(1, MIB))
        assert path.read_bytes() == text(1, MIB) + bytes(7 * MIB)
        server.send_signal(number)
        rest = server.stdout.read()
    if number == signal.SIGTERM:
        assert server.returncode == 0 and "256 units" not in rest and "read" in rest
        assert not path.exists()
        return
    assert str(path) in mounted()
    with pytest.raises(OSError) as error:
        path.read_bytes()
    assert error.value.errno == errno.ENOTCONN
    with pytest.raises(UsageError, match="umount -l"):
        Server("1M", file=path)
    run("umount", "-l", path)
    until(lambda: str(path) not in mounted())
    with Server("1M", file=path):
        assert path.stat().st_size == MIB
