"""The arms of ``lab build``: what the kernel swaps a build to, and how what it holds is measured.

Owns, inside `ready`: the swap area, the kernel's settings of zswap, the processes behind the device.
All of it is as it was before when the block is left (short of SIGKILL); the undoing of each step is
noted before the step is done. Needs root. Takes no locks: see `changing_swap`.
How large the pool may grow is up to the caller, arm by arm.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coldmem.errors import EnvironmentFailure
from coldmem.lab.arms import ARMS
from coldmem.lab.build_source import NBD_TOOLS, RUN_TOOLS, require
from coldmem.lab.kernel_swap import ZRAM_CODEC, ZSWAP_SETTINGS, change, make_swap_file, use_swap
from coldmem.lab.nbd_swap import NbdDevice, ServerStats, file_of
from coldmem.linux.cgroup import machine_bytes as ram_bytes
from coldmem.linux.memory_group import find_hierarchy
from coldmem.linux.swap import in_use
from coldmem.linux.usage import machine_bytes, other_process_bytes, other_process_cpu_s
from coldmem.linux.zram import Zram, ZramModule

NO_LIMIT, SWAP_FILE, ZSWAP, ZRAM, NBDKIT = "none", "swapfile", "zswap", "zram", "nbdkit"
KERNEL_ARMS = (ZSWAP, ZRAM, SWAP_FILE)
COLDMEM_ARMS = ("pools32", "pool", "class", "handle")
#: nbdkit compresses nothing: what the way through nbdfuse and the loop device costs by itself.
BUILD_ARMS = (NO_LIMIT, *KERNEL_ARMS, *COLDMEM_ARMS, NBDKIT)
DEFAULT_ARMS = (NO_LIMIT, *KERNEL_ARMS, *COLDMEM_ARMS)
FACES = (FILE, NBDFUSE) = ("file", "nbdfuse")
UNIT_BYTES = 4096
SOCKETS = "/tmp"


@dataclass(frozen=True, slots=True)
class SwapSettings:
    """How an arm is set up.

    Attributes
    ----------
    swap_bytes : int
        Size of the swap area.
    pool_bytes_max : int
        What a compressed pool may take.
    folder : Path
        For sockets, swap files and mounts; on a disk.
    compressor : str
        Of the kernel's zswap; empty: as it is set.
    codec : str
        Of coldmem.
    record : Path or None
        Where coldmem's server writes what it was asked for.
    discard : bool
        Tell an NBD device what has become free. The kernel does so by clusters of 2 MiB, once all of
        one is free, and with it hands out empty clusters before it takes half-empty ones.
    face : str
        `FILE`: coldmem serves a file itself; `NBDFUSE`: it serves NBD, and nbdfuse makes a file of that.
    """

    swap_bytes: int
    pool_bytes_max: int
    folder: Path
    compressor: str = ""
    codec: str = "lz4"
    record: Path | None = None
    discard: bool = False
    face: str = FILE


def _nothing() -> dict[str, Any]:
    return {}


@dataclass
class Swap:
    """An arm while it is in place.

    Attributes
    ----------
    fields : dict
        For the row: codec and the like.
    pool : callable
        Bytes of the pages in the pool, and bytes of memory that they take; (0, 0) without a pool.
    overhead : callable
        Bytes of tables beside the pool, where they are known.
    pool_charged : bool
        The pool is in the cgroup's account already.
    counters : callable
        Numbers that only grow, by name: CPU seconds of the processes behind the device, and events.
    device : NbdDevice or None
    """

    fields: dict[str, Any] = field(default_factory=dict)
    pool: Callable[[], tuple[int, int]] = lambda: (0, 0)
    overhead: Callable[[], int] = lambda: 0
    pool_charged: bool = False
    counters: Callable[[], dict[str, Any]] = _nothing
    device: NbdDevice | None = None

    def check(self) -> None:
        """EnvironmentFailure when what serves the device has ended."""
        if self.device is not None:
            self.device.check()

    def abort(self) -> None:
        """Who waits for the device gets an error: the last means to get rid of a process."""
        if self.device is not None:
            self.device.abort()


def check_machine(arms: tuple[str, ...], face: str = FILE) -> None:
    """EnvironmentFailure that says what is missing for `arms`."""
    tools = dict(RUN_TOOLS)
    ours = set(COLDMEM_ARMS) & set(arms)
    if NBDKIT in arms or (ours and face == NBDFUSE):
        tools |= NBD_TOOLS
    if (NBDKIT in arms or ours) and not Path("/dev/fuse").exists():
        raise EnvironmentFailure("this kernel has no FUSE (/dev/fuse): modprobe fuse")
    if NBDKIT in arms:
        tools |= {"nbdkit": "nbdkit"}
    require(tools)
    if ZSWAP in arms and (not ZSWAP_SETTINGS.exists() or machine_bytes("Zswap") is None):
        raise EnvironmentFailure(
            "this kernel has no zswap, or does not say what its pool holds: leave the arm zswap out"
        )
    others = in_use()
    if others:
        raise EnvironmentFailure(
            f"{', '.join(others)}: other swap is in use, and what goes there would be counted: "
            "swapoff it for the time of the experiment"
        )


@contextmanager
def ready(arm: str, settings: SwapSettings) -> Iterator[Swap]:
    """`arm` in place.

    Raises
    ------
    EnvironmentFailure
        Something is missing or forbidden; the message says what.
    """
    with ExitStack() as undo:
        try:
            if arm == NO_LIMIT:
                swap = Swap()
            elif arm == ZSWAP:
                swap = _zswap(undo, settings)
            else:
                if (ZSWAP_SETTINGS / "enabled").exists():
                    change(undo, ZSWAP_SETTINGS / "enabled", "N")  # it would stand before any other
                if arm == ZRAM:
                    swap = _zram(undo, settings)
                elif arm == SWAP_FILE:
                    _swap_file(undo, settings)
                    swap = Swap()
                elif arm == NBDKIT:
                    swap = _nbdkit(undo, settings)
                else:
                    swap = _coldmem(undo, settings, arm)
        except OSError as error:
            if isinstance(error, EnvironmentFailure):
                raise
            raise EnvironmentFailure(f"{error.filename or arm}: {error.strerror}") from error
        yield swap


def _swap_file(undo: ExitStack, settings: SwapSettings) -> None:
    path = settings.folder / "swapfile"
    make_swap_file(undo, path, settings.swap_bytes)
    use_swap(undo, path, settings.swap_bytes)


def _zswap(undo: ExitStack, settings: SwapSettings) -> Swap:
    _swap_file(undo, settings)
    if settings.compressor:
        try:
            change(undo, ZSWAP_SETTINGS / "compressor", settings.compressor)
        except OSError as error:
            raise EnvironmentFailure(
                f"this kernel's zswap has no compressor {settings.compressor}: modprobe it, or see "
                "/proc/crypto"
            ) from error
    percent = -(-settings.pool_bytes_max * 100 // ram_bytes())
    change(undo, ZSWAP_SETTINGS / "max_pool_percent", str(max(1, min(percent, 100))))
    shrinker = ZSWAP_SETTINGS / "shrinker_enabled"
    if shrinker.exists():
        change(undo, shrinker, "Y")
    change(undo, ZSWAP_SETTINGS / "enabled", "Y")
    before = machine_bytes("Zswapped") or 0, machine_bytes("Zswap") or 0

    def pool() -> tuple[int, int]:
        now = machine_bytes("Zswapped") or 0, machine_bytes("Zswap") or 0
        return max(now[0] - before[0], 0), max(now[1] - before[1], 0)

    return Swap(
        fields={
            "codec": (ZSWAP_SETTINGS / "compressor").read_text().strip(),
            "shrinker": shrinker.exists(),
        },
        pool=pool, pool_charged=find_hierarchy().version == 2,
    )


def _zram(undo: ExitStack, settings: SwapSettings) -> Swap:
    undo.enter_context(ZramModule())
    device = Zram(settings.swap_bytes, ZRAM_CODEC, settings.folder)
    undo.callback(device.close)
    use_swap(undo, device.path, settings.swap_bytes)

    def pool() -> tuple[int, int]:
        fields = device.stat_path.read_text().split()
        return int(fields[0]), int(fields[2])

    return Swap(fields={"codec": ZRAM_CODEC}, pool=pool)


def _use_nbd(
    undo: ExitStack, settings: SwapSettings, command: list[str], socket_path: Path | None
) -> NbdDevice:
    device = NbdDevice(command, settings.folder, socket_path)
    undo.callback(device.close)
    use_swap(undo, device.path, settings.swap_bytes, discard=settings.discard)
    return device


def _new_socket(undo: ExitStack) -> Path:
    """A name for a socket, in a folder of its own; a Unix socket's name has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="coldmem-build-", dir=SOCKETS))
    undo.callback(shutil.rmtree, folder)
    return folder / "nbd.socket"


def _cpu(device: NbdDevice) -> dict[str, Any]:
    server_user_s, server_sys_s = other_process_cpu_s(device.server.pid)
    fuse_s = 0.0 if device.fuse is None else sum(other_process_cpu_s(device.fuse.pid))
    return {"server_user_s": server_user_s, "server_sys_s": server_sys_s, "fuse_cpu_s": fuse_s}


def _nbdkit(undo: ExitStack, settings: SwapSettings) -> Swap:
    socket_path = _new_socket(undo)
    command = ["nbdkit", "-f", "-U", str(socket_path), "memory", str(settings.swap_bytes)]
    device = _use_nbd(undo, settings, command, socket_path)
    before = other_process_bytes(device.server.pid, "RssAnon")

    def pool() -> tuple[int, int]:
        used = max(other_process_bytes(device.server.pid, "RssAnon") - before, 0)
        return used, used

    return Swap(
        fields={"codec": "none", "loop_direct": device.direct}, pool=pool,
        counters=lambda: _cpu(device), device=device,
    )


def _coldmem(undo: ExitStack, settings: SwapSettings, name: str) -> Swap:
    what = ARMS[name]
    socket_path = _new_socket(undo) if settings.face == NBDFUSE else None
    stats_path = settings.folder / "stats.json"
    undo.callback(stats_path.unlink, missing_ok=True)
    command = [
        sys.executable, "-m", "coldmem", "nbd", "--size", str(settings.swap_bytes),
        "--memory-max", str(settings.pool_bytes_max), "--swapfile", str(settings.folder),
        "--codec", settings.codec, "--locking", what.locking, "--pools", str(what.pools_n),
        "--stats-file", str(stats_path), "--lock-memory", "--lock-statistics",
    ]
    if socket_path is None:
        command += ["--file", str(file_of(settings.folder))]
    else:
        command += ["--socket", str(socket_path)]
    if settings.record is not None:
        command += ["--record", str(settings.record.absolute())]
    device = _use_nbd(undo, settings, command, socket_path)
    told = ServerStats(device.server, stats_path)
    told.ask(wait=True)
    before = other_process_bytes(device.server.pid, "RssAnon")
    fields: dict[str, Any] = {"codec": settings.codec, "loop_direct": device.direct}

    def pool() -> tuple[int, int]:
        told.ask(wait=False)
        found = told.last["zswap"]
        for key, value in {
            "server_rss_peak_bytes": other_process_bytes(device.server.pid),
            "server_grown_peak_bytes": other_process_bytes(device.server.pid, "RssAnon") - before,
            "fuse_rss_peak_bytes": other_process_bytes(device.fuse.pid) if device.fuse else 0,
            "disk_peak_bytes": found["disk_bytes"],
        }.items():
            fields[key] = max(fields.get(key, 0), value)
        return units_in_ram(found) * UNIT_BYTES, found["pool_used_bytes"]

    def counters() -> dict[str, Any]:
        told.ask(wait=True)
        locks = told.last["locks"].values()
        requests = told.last["device"]["requests"]
        return _cpu(device) | {
            "uptime_s": told.last["uptime_s"],
            "written_back": told.last["counters"]["written_back_pages"],
            "reads": requests["read"], "writes": requests["write"], "trims": requests["trim"],
            "trimmed_bytes": told.last["device"]["trimmed_bytes"],
            "lock_acquisitions": sum(lock["acquisitions"] for lock in locks),
            "lock_waits": sum(lock["contended"] for lock in locks),
            "lock_wait_s": sum(lock["wait_ns"] for lock in locks) / 1e9,
        }

    return Swap(
        fields=fields, pool=pool, overhead=lambda: int(told.last["zswap"]["metadata_bytes"]),
        counters=counters, device=device,
    )


def units_in_ram(found: dict[str, Any]) -> int:
    """Units whose data is in RAM, those of one repeated word among them."""
    return int(found["units_ram"] + found["units_same_filled"])
