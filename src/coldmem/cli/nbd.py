"""``coldmem nbd``: serve compressed memory as a network block device until told to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import socketpair
from typing import Any

import click

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.units import format_bytes

STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
TELL = signal.SIGUSR1
TICK_NS = 1000  # of the times in a record: finer digits do not compress and say nothing


@click.command("nbd")
@click.option("--size", required=True, metavar="SIZE", help="Bytes of the device, such as 10G.")
@click.option("--socket", type=click.Path(), help="Listen on a Unix socket of this name.")
@click.option("--tcp", metavar="[HOST:]PORT", help="Listen there; without a host on the loopback. "
              "There is no password and no encryption.")
@click.option("--file", type=click.Path(), metavar="PATH",
              help="Be a file there, for loop devices and programs that know no NBD. Needs root.")
@click.option("--memory-max", metavar="SIZE", default="20%", show_default=True,
              help="Most bytes of compressed data in RAM, or a percentage of all RAM.")
@click.option("--swapfile", type=click.Path(), metavar="PATH",
              help="What does not fit goes to disk: into this directory, or beside this name, which "
                   "must not be taken. The file itself never has a name.")
@click.option("--swap-max", metavar="SIZE", help="Most bytes on disk. Default: the size.")
@click.option("--unit", metavar="SIZE", default="4K", show_default=True,
              help="What is compressed at a time: 4K, 16K or 64K.")
@click.option("--codec", default="lz4", show_default=True, help="See coldmem bench codecs.")
@click.option("--cold-codec", help="What stays cold is packed once more, with this one.")
@click.option("--locking", type=click.Choice(["handle", "class", "pool"]), default="handle",
              show_default=True, help="How the allocator locks.")
@click.option("--pools", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Spread objects over so many pools.")
@click.option("--magazines", is_flag=True, help="Free objects are kept per CPU.")
@click.option("--shrinker", type=click.Choice(["referenced", "protected"]), default="referenced",
              show_default=True, help="Whose rule: that of kernel 6.12, or that of 6.11.")
@click.option("--shrinker-thread/--no-shrinker-thread", default=True, show_default=True,
              help="Write back in the background, before stores have to.")
@click.option("--accept-threshold", type=click.FloatRange(0, 1), default=0.9, show_default=True,
              help="A pool that was full is brought down to this share of --memory-max.")
@click.option("--lock-statistics", is_flag=True, help="Count and time the waits for locks.")
@click.option("--threads", type=click.IntRange(1, 64),
              help="Threads of each connection. Default: one per CPU, four at most.")
@click.option("--connections", "connections_max", type=click.IntRange(1), default=64,
              show_default=True, help="Clients at one time.")
@click.option("--lock-memory", is_flag=True,
              help="Keep this process in RAM: needed when the machine swaps to it.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--export", default="", metavar="NAME", help="Name of the export. Default: empty.")
@click.option("--stats-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Write statistics into this file as JSON, at SIGUSR1 and at the end. Without it "
                   "SIGUSR1 prints them to stderr.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write all stores, loads and trims into this .npz file at the end, for "
                   "coldmem lab replay.")
@click.option("--json", "as_json", is_flag=True,
              help="Print one JSON object when ready and one at the end.")
def command(
    socket: str | None, tcp: str | None, file: str | None, stats_file: Path | None,
    record: Path | None, as_json: bool, size: str, unit: str, **options: Any,
) -> None:
    """Serve compressed memory as a block device, until SIGTERM or Ctrl-C.

    For virtual machines, scratch disks and swap. What is written is compressed into RAM; what does
    not fit there goes to the swap file, least recently used first. Nothing outlives the server.
    """
    if socket is None and tcp is None and file is None:
        raise click.UsageError("Give --socket, --tcp or --file.")
    for path in (stats_file, record):
        if path is not None and not path.absolute().parent.is_dir():
            raise EnvironmentFailure(f"there is no directory {path.absolute().parent}")
    if record is not None and record.suffix != ".npz":
        raise UsageError(f"--record {record.name}: end it in .npz")
    from coldmem.lab import machine
    from coldmem.nbd.server import Server

    with _signals(STOP | {TELL}) as next_signal:
        server = Server(size, socket=socket, tcp=tcp, file=file, unit_bytes=unit,
                        record=record is not None, **options)
        with server:
            _say_ready(server.uris, server.file, server.size_bytes, as_json)
            while next_signal() == TELL:
                _tell(server.stats(), stats_file)
        last = server.stats()
        if stats_file is not None:
            _tell(last, stats_file)
        if record is not None:
            trace = server.trace(machine.facts())
            trace.save(record, TICK_NS)
            last = {**last, "recorded": len(trace), "not_recorded": trace.dropped}
        _say_end(last, as_json)


@contextlib.contextmanager
def _signals(wanted: set[signal.Signals]) -> Iterator[Callable[[], int]]:
    """A function that waits for the next of `wanted`; those that come before it is called count too.

    Blocking them and `sigwait` would not do: libraries have started threads that do not block them.
    """
    near, far = socketpair()
    with near, far:
        far.setblocking(False)
        before_fd = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in wanted}

        def next_signal() -> int:
            while (number := near.recv(1)[0]) not in wanted:
                pass
            return number

        try:
            yield next_signal
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: not set from Python
            signal.set_wakeup_fd(before_fd)


def _print(line: str) -> None:
    """Whoever started the server may read no more; that ends nothing."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _say_ready(uris: list[str], file: str | None, size_bytes: int, as_json: bool) -> None:
    if as_json:
        _print(json.dumps({"ready": True, "uris": uris, "file": file, "size_bytes": size_bytes}))
        return
    for place in [*uris, *([file] if file else [])]:
        _print(f"serving {format_bytes(size_bytes)} at {place}")


def _tell(stats: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(stats, indent=1)
    if path is None:
        print(text, file=sys.stderr, flush=True)
        return
    unready = path.with_name(f".{path.name}.tmp")
    try:
        unready.write_text(text + "\n")
        unready.replace(path)
    except OSError as error:
        print(f"coldmem: cannot write {path}: {error.strerror}", file=sys.stderr)
    finally:
        unready.unlink(missing_ok=True)


def _say_end(stats: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print(json.dumps(stats))
        return
    device, zswap, counters = stats["device"], stats["zswap"], stats["counters"]
    stored = zswap["units"] * stats["unit_bytes"]
    packed = zswap["stored_bytes"] + zswap["disk_bytes"]
    ratio = f", {stored / packed:.2f} to 1" if packed else ""
    _print(f"stored {format_bytes(stored)} in {format_bytes(packed)}{ratio}; "
           f"{counters['written_back_pages']:,} units written back, "
           f"{format_bytes(zswap['disk_bytes'])} on disk at the end")
    requests = ", ".join(f"{n:,} {name}" for name, n in device["requests"].items() if n)
    _print(f"{device['connections']:,} connections: {requests or 'no requests'}")
    for key, what in (("no_room", "found no room"), ("io_errors", "failed on disk or in the codec"),
                      ("refused", "were refused")):
        if device[key]:
            _print(f"{device[key]:,} requests {what}")
    if "recorded" in stats:
        lost = f", {stats['not_recorded']:,} lost" if stats["not_recorded"] else ""
        _print(f"recorded {stats['recorded']:,} operations{lost}")
