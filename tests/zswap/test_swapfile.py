"""The swap file: how it is made, how it grows, what it gives back, what it refuses."""

import errno
import os
import random
import threading
from itertools import pairwise

import pytest

from coldmem.errors import (
    ClosedError,
    InternalError,
    InvalidQuantityError,
    InvalidSizeError,
    SwapFileError,
    UsageError,
)
from coldmem.linux import file as linux_file
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.testing.swap_stress import alloc_cost_ns, damage
from coldmem.zswap.swapdir import default_directory
from coldmem.zswap.swapfile import SwapFile

MIB = 1 << 20


def open_files_in(directory):
    """stat of every descriptor of this process whose file was made in `directory`."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(f"{directory}/"):
                found.append((os.stat(f"/proc/self/fd/{name}"), int(name)))
        except FileNotFoundError:
            continue
    return found


def without_o_tmpfile(monkeypatch, code):
    real_open = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)


# -- birth ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("refusal", [None, errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_has_no_name_and_is_for_its_owner_alone(tmp_path, monkeypatch, refusal):
    if refusal:
        without_o_tmpfile(monkeypatch, refusal)
    old = os.umask(0o277)
    try:
        file = SwapFile("1M", directory=tmp_path)
    finally:
        os.umask(old)
    with file:
        offset = file.alloc(4096)
        file.write(offset, b"x" * 4096)
        assert file.read(offset, 4096) == b"x" * 4096
        assert os.listdir(tmp_path) == []
        [(stat, fd)] = open_files_in(tmp_path)
        assert stat.st_mode & 0o7777 == 0o600
        assert stat.st_nlink == 0
        assert not os.get_inheritable(fd)
    assert open_files_in(tmp_path) == []


def test_directory_that_is_not_there():
    with pytest.raises(SwapFileError, match="no such directory") as caught:
        SwapFile("1M", directory="/no/such/place")
    assert caught.value.errno == errno.ENOENT


def test_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SwapFileError, match="not a directory"):
        SwapFile("1M", directory=tmp_path / "file")


def test_directory_without_permission(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SwapFileError, match="no permission"):
        SwapFile("1M", directory=tmp_path)


def test_default_directory_prefers_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("coldmem.zswap.swapdir.in_memory", lambda path: False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_directory() == str(tmp_path)
    monkeypatch.setattr("coldmem.zswap.swapdir.in_memory", lambda path: path == str(tmp_path))
    assert default_directory() == "/var/tmp"
    monkeypatch.setattr("coldmem.zswap.swapdir.in_memory", lambda path: True)
    assert default_directory() == str(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert default_directory() == "/var/tmp"


def test_in_memory_agrees_with_the_mount_table():
    kinds = {}
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            kinds[where] = kind
    checked = 0
    for where, kind in kinds.items():
        if kind in ("tmpfs", "ramfs", "ext4", "xfs", "btrfs", "overlay", "proc") and (
            os.path.isdir(where)
        ):
            assert linux_file.in_memory(where) == (kind in ("tmpfs", "ramfs")), where
            checked += 1
    assert checked


@pytest.mark.parametrize("unit", [0, 512, 3000, 512 << 10, -4096])
def test_unit_that_cannot_be(unit):
    with pytest.raises(InvalidSizeError):
        SwapFile("1M", unit_bytes=unit)


@pytest.mark.parametrize("size", ["much", -1, "17T", "50%"])
def test_size_that_cannot_be(size):
    with pytest.raises(InvalidQuantityError):
        SwapFile(size)


def test_is_made_once():
    with SwapFile("1M") as file, pytest.raises(UsageError):
        file.__init__("1M")


def test_a_file_of_16_tib_costs_nothing_at_the_start():
    def resident_bytes():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident_bytes()
    with SwapFile("16T") as file:
        offsets = [file.alloc(4000) for _ in range(1000)]
        file.check_valid()
        assert resident_bytes() - before < 2 * MIB
        for offset in offsets:
            file.free(offset, 4000)


# -- room -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("unit", [1024, 4096, 16384, 65536, 262144])
def test_charge_is_whole_sixteenths(unit):
    granule = unit // 16
    with SwapFile("4M", unit_bytes=unit) as file:
        for n in (1, granule - 1, granule, granule + 1, unit // 2, unit - 1, unit):
            want = -(-n // granule) * granule
            assert file.charge(n) == want
            before = file.used_bytes
            offset = file.alloc(n)
            assert file.used_bytes - before == want
            file.free(offset, n)
            assert file.used_bytes == before
        for n in (0, -1, unit + 1):
            for call in (file.charge, file.alloc):
                with pytest.raises(InvalidSizeError):
                    call(n)


def test_what_is_allocated_in_a_row_lies_in_a_row():
    with SwapFile("16M") as file:
        for n in (4096, 2048, 1024):  # these fill blocks of four units without a rest
            offsets = [file.alloc(n) for _ in range(64)]
            assert offsets == [offsets[0] + i * n for i in range(64)]
        sizes = [random.Random(4).randint(1, 4096) for _ in range(1000)]
        places = [(file.alloc(n), file.charge(n)) for n in sizes]
        breaks = sum(a + size != b for (a, size), (b, _) in pairwise(places))
        assert breaks <= sum(size for _, size in places) / (16384 - 4096) + 1
        # One transfer serves neighbours.
        offset = offsets[0]
        file.write(offset, b"".join(bytes([i]) * 1024 for i in range(64)))
        assert [file.read(o, 1024)[:1] for o in offsets] == [bytes([i]) for i in range(64)]


def test_grows_as_needed_and_reuses_room():
    dice = random.Random(2)
    with SwapFile("64M") as file:
        assert file.stats()["size_bytes"] == 0
        live = [(file.alloc(n), n) for n in (dice.randint(1, 4096) for _ in range(4000))]
        used = file.used_bytes
        size = file.stats()["size_bytes"]
        assert used <= size <= used * 4 // 3 + 2 * MIB
        for _ in range(100_000):  # 25 times the file's contents go through it
            i = dice.randrange(len(live))
            file.free(*live[i])
            n = live[i][1]
            live[i] = (file.alloc(n), n)
        assert file.used_bytes == used
        assert file.stats()["size_bytes"] <= used * 4 // 3 + 2 * MIB
        file.check_valid()


def test_full_to_the_last_granule():
    with SwapFile(MIB + 300) as file:  # 4097 granules: the last block has one
        assert file.swap_max_bytes == MIB + 256
        offsets = [file.alloc(4096) for _ in range(256)]
        with pytest.raises(SwapFileError) as caught:
            file.alloc(257)
        assert caught.value.errno == errno.ENOSPC
        last = file.alloc(256)
        assert last == MIB
        with pytest.raises(SwapFileError):
            file.alloc(1)
        assert file.used_bytes == file.swap_max_bytes
        file.write(last, b"e" * 256)
        with pytest.raises(UsageError):
            file.write(last, b"e" * 257)
        file.free(offsets[100], 4096)
        assert file.alloc(4000) == offsets[100]
        file.check_valid()


def test_no_room_at_all():
    with SwapFile(0) as file:
        with pytest.raises(SwapFileError, match="no space"):
            file.alloc(1)
        file.check_valid()
        assert file.trim() == 0


def test_misuse_is_refused_and_harms_nothing():
    with SwapFile("2M") as file:
        offset = file.alloc(1000)
        file.write(offset, b"a" * 1000)
        for call in (lambda: file.free(offset + 1024, 1), lambda: file.free(offset + 1, 900),
                     lambda: file.free(offset, 4096), lambda: file.free(-256, 1),
                     lambda: file.free(1 << 40, 1), lambda: file.write(offset, b"a" * 1025),
                     lambda: file.read(offset + 5 * MIB, 1), lambda: file.read(offset, 0),
                     lambda: file.write(offset, b"")):
            with pytest.raises(UsageError):
                call()
        assert file.read(offset, 1000) == b"a" * 1000
        file.free(offset, 1000)
        with pytest.raises(UsageError):
            file.free(offset, 1000)
        file.check_valid()


def test_nothing_was_written_there():
    with SwapFile("2M") as file:
        offset = file.alloc(100)
        with pytest.raises(SwapFileError) as caught:
            file.read(offset, 100)
        assert caught.value.errno == errno.EIO
        assert file.stats()["read_errors"] == 1


# -- disk space goes back -------------------------------------------------------------------------
def test_disk_space_goes_back_in_batches():
    with SwapFile("256M") as file:
        offsets = [file.alloc(4096) for _ in range(40 * 256)]
        for offset in offsets:
            file.write(offset, b"d" * 4096)
        assert file.stats()["file_bytes"] >= 40 * MIB
        for i, offset in enumerate(offsets[: 20 * 256]):
            file.free(offset, 4096)
            if i == 15 * 256:
                assert file.stats()["punched_bytes"] == 0  # 15 regions are not a batch
        stats = file.stats()
        assert stats["punched_bytes"] == 16 * MIB
        assert stats["file_bytes"] <= 24 * MIB + 64 * 1024
        assert file.trim() == 4 * MIB
        assert file.trim() == 0
        assert file.stats()["file_bytes"] <= 20 * MIB + 64 * 1024
        for offset in offsets[20 * 256 :]:
            assert file.read(offset, 4096) == b"d" * 4096
        file.check_valid()


def test_a_region_with_one_entry_left_keeps_its_disk_space():
    with SwapFile("4M") as file:
        offsets = [file.alloc(4096) for _ in range(512)]
        for offset in offsets:
            file.write(offset, b"k" * 4096)
        for offset in offsets[1:]:
            file.free(offset, 4096)
        file.trim()
        assert file.stats()["punched_bytes"] == MIB
        assert file.read(offsets[0], 4096) == b"k" * 4096


def test_preallocated_disk_space_is_kept():
    with SwapFile("8M", preallocate=True) as file:
        assert file.stats()["file_bytes"] >= 8 * MIB
        offsets = [file.alloc(4096) for _ in range(2048)]
        for offset in offsets:
            file.free(offset, 4096)
        assert file.trim() == 0
        assert file.stats()["file_bytes"] >= 8 * MIB


# -- a disk that is really full -------------------------------------------------------------------
@pytest.fixture
def small_disk(mount_disk):
    return mount_disk("2m")


def test_disk_full_while_growing_loses_nothing(small_disk):
    with SwapFile("8M", directory=small_disk) as file:
        assert file.stats()["in_memory"] is True
        kept = []
        refused = None
        while refused is None:
            offset = file.alloc(4096)
            data = os.urandom(4096)
            try:
                file.write(offset, data)
                kept.append((offset, data))
            except SwapFileError as error:
                refused = error
                file.free(offset, 4096)
        assert refused.errno == errno.ENOSPC and "no space is left" in str(refused)
        assert len(kept) == 512
        assert file.stats()["write_errors"] == 1
        assert file.used_bytes == 512 * 4096
        for offset, data in kept:
            assert file.read(offset, 4096) == data
        # What is given back to the disk can be written again.
        for offset, _ in kept[:256]:
            file.free(offset, 4096)
        file.trim()
        offset = file.alloc(4096)
        file.write(offset, b"w" * 4096)
        assert file.read(offset, 4096) == b"w" * 4096
        for offset, data in kept[256:]:
            assert file.read(offset, 4096) == data
        file.check_valid()


def test_no_disk_space_to_reserve(small_disk):
    with pytest.raises(SwapFileError, match=r"cannot reserve 8\.0 MiB .* are free") as caught:
        SwapFile("8M", directory=small_disk, preallocate=True)
    assert caught.value.errno == errno.ENOSPC
    assert open_files_in(small_disk) == []


# -- end ------------------------------------------------------------------------------------------
def test_closed_file_refuses():
    file = SwapFile("1M")
    offset = file.alloc(10)
    file.write(offset, b"0123456789")
    file.close()
    file.close()
    assert file.closed and "closed" in repr(file)
    for call in (lambda: file.alloc(1), lambda: file.free(offset, 10), file.stats,
                 lambda: file.read(offset, 10), lambda: file.write(offset, b"x")):
        with pytest.raises(ClosedError):
            call()
    file.check_valid()
    assert file.trim() == 0


def test_close_waits_for_a_transfer_that_runs():
    file = SwapFile("1M")
    offset = file.alloc(1000)
    file.write(offset, b"s" * 1000)
    got = []
    with FaultPlan([Fault("read", "delay", at=1, argument=300)]).installed(file) as struck:
        reader = threading.Thread(target=lambda: got.append(file.read(offset, 1000)))
        reader.start()
        while struck.hits() == [0]:
            pass
        file.close()
        reader.join()
    assert got == [b"s" * 1000]


def test_child_of_fork_cannot_spoil_the_parents_file():
    with SwapFile("64M") as file:
        offset = file.alloc(1000)
        file.write(offset, b"p" * 1000)
        for free_again in [file.alloc(4096) for _ in range(300)]:  # a region that could be punched
            file.free(free_again, 4096)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in (lambda: file.alloc(1000), lambda: file.write(offset, b"c" * 1000)):
                    with pytest.raises(SwapFileError, match="forked") as caught:
                        call()
                    assert caught.value.errno == errno.EROFS
                file.free(offset, 1000)
                assert file.trim() == 0
                assert file.read(offset, 1000) == b"p" * 1000
                file.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.read(offset, 1000) == b"p" * 1000
        file.check_valid()


# -- the checks themselves ------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["word", "tree", "level", "region", "pending", "used"])
def test_check_valid_notices_damage(part):
    with SwapFile("64M") as file:
        offsets = [file.alloc(4096) for _ in range(512)]
        for offset in offsets[256:]:
            file.free(offset, 4096)
        file.check_valid()
        damage(file, part)
        with pytest.raises(InternalError, match="swap file"):
            file.check_valid()


@pytest.mark.parametrize("share", [0.1, 0.9, 0.99])
def test_the_measurement_of_the_allocator_holds_the_share(share):
    with SwapFile("8M") as file:
        cost = alloc_cost_ns(file, share, batches=50)
        assert abs(cost["used_share"] - share) < 0.01
        assert cost["alloc_ns"] > 0 and cost["free_ns"] > 0
        assert file.used_bytes == 0
        file.check_valid()
