"""Threads on one device: writes to different bytes of one unit all survive, and reads are whole."""

import random
import time

import pytest
from nbd_client import Client
from unit_data import UNIT, noise

from coldmem.nbd import Server
from coldmem.nbd import protocol as p
from coldmem.nbd.device import Device
from coldmem.zswap import Zswap

ARMS = {"handle": {}, "class": {"locking": "class"}, "pools": {"pools": 4, "locking": "pool"}}


@pytest.mark.tsan
@pytest.mark.parametrize(("arm", "unit"), [*((arm, 4096) for arm in ARMS), ("handle", 65536)])
def test_disjoint_parts_of_units_survive(run_threads, stress_seconds, arm, unit):
    """Each thread owns every eighth of each unit; the pool is so small that most is on disk."""
    parts = 8
    part = unit // parts
    units = 24
    end = time.monotonic() + stress_seconds
    with Zswap(unit_bytes=unit, max_pool=unit * 8, swap=unit * 80, shards=2, **ARMS[arm]) as z:
        device = Device(z, units * unit)

        def work(me):
            dice = random.Random(me)
            mine = [bytes(part)] * units
            while time.monotonic() < end:
                u = dice.randrange(units)
                at = u * unit + me * part
                what = dice.randrange(4)
                if what == 0:
                    device.zero(at, part)
                    mine[u] = bytes(part)
                elif what == 1:
                    assert device.read(at, part) == mine[u]
                else:
                    mine[u] = dice.randbytes(part)
                    device.write(at, mine[u])
            return mine

        held = run_threads(*(lambda me=me: work(me) for me in range(parts)))
        for u in range(units):
            assert device.read(u * unit, unit) == b"".join(held[me][u] for me in range(parts))
        assert z.counters()["zswpwb"] > 0
        z.check_valid("full")
        z.swap.check_valid()


@pytest.mark.tsan
def test_whole_units_parts_trims_and_reads_meet(run_threads, stress_seconds):
    """A reader of a unit sees one version of it, whole."""
    end = time.monotonic() + stress_seconds
    units = 24
    versions = [noise(i) for i in range(32)]
    known = {bytes(UNIT), *versions}
    with Zswap(max_pool=UNIT * 8, swap=UNIT * 60, shards=1) as z:
        device = Device(z, units * UNIT)

        def whole(me):
            dice = random.Random(me)
            while time.monotonic() < end:
                at = dice.randrange(units) * UNIT
                if dice.randrange(5) == 0:
                    device.trim(at, UNIT)
                else:
                    device.write(at, dice.choice(versions))

        def look():
            while time.monotonic() < end:
                for u in range(units):
                    assert device.read(u * UNIT, UNIT) in known, "two versions in one"
                device.status(0, units * UNIT)
                device.counts()

        run_threads(*(lambda me=me: whole(me) for me in range(4)), look, look)
        z.check_valid("full")


@pytest.mark.tsan
@pytest.mark.parametrize("what", ["write", "zero", "trim"])
def test_a_part_that_is_written_does_not_bring_back_what_was_replaced(
        run_threads, stress_seconds, what):
    """Of two writes that overlap one is last; the bytes of before both are gone in either case."""
    units, part = 3, 64
    end = time.monotonic() + stress_seconds / 3
    versions = [noise(i) for i in range(16)]
    with Zswap(max_pool=UNIT * 8, swap=UNIT * 60, shards=1) as z:
        device = Device(z, units * UNIT)

        def whole(u):
            for n in range(1_000_000):
                if time.monotonic() > end:
                    return
                expected = versions[n % 16]
                if n % 2 == 0 or what == "write":
                    device.write(u * UNIT, expected)
                else:
                    getattr(device, what)(u * UNIT, UNIT)
                    expected = bytes(UNIT)
                assert device.read(u * UNIT + part, UNIT - part) == expected[part:]

        def patch(u):
            dice = random.Random(u)
            while time.monotonic() < end:
                device.write(u * UNIT, dice.randbytes(part))

        run_threads(*(lambda u=u, job=job: job(u) for u in range(units) for job in (whole, patch)))
        z.check_valid("full")


@pytest.mark.tsan
@pytest.mark.parametrize("threads", [1, 4])
def test_several_connections_with_several_requests_each(tmp_path, run_threads, stress_seconds,
                                                        threads):
    """Every client owns each fourth 1000 bytes, across units, with ten requests under way."""
    path = str(tmp_path / "s")
    end = time.monotonic() + stress_seconds
    pieces, part, clients = 240, 1000, 4

    def work(me):
        dice = random.Random(me)
        content, busy, order = {}, {}, set()
        with Client(path) as client:
            client.go(structured=me % 2 == 0)
            while time.monotonic() < end or busy:
                while len(busy) < 10 and time.monotonic() < end:
                    piece = dice.randrange(pieces // clients) * clients + me
                    if piece in order:
                        continue
                    order.add(piece)
                    if dice.randrange(2):
                        data = dice.randbytes(part // 4) * 4
                        content[piece] = data
                        cookie = client.request(p.CMD_WRITE, piece * part, part, 0, data)
                        busy[cookie] = (piece, None)
                    else:
                        cookie = client.request(p.CMD_READ, piece * part, part)
                        busy[cookie] = (piece, content.get(piece, bytes(part)))
                out = client.reply()
                piece, expected = busy.pop(out.cookie)
                order.discard(piece)
                assert out.error == 0
                if expected is not None:
                    got = out.data(piece * part, part) if client.structured else out.chunks[0][2]
                    assert got == expected
            client.disconnect()
        return content

    with Server(pieces * part, socket=path, memory_max="64K", swapfile=tmp_path,
                threads=threads) as server:
        held = run_threads(*(lambda me=me: work(me) for me in range(clients)))
        with Client(path) as client:
            client.go()
            whole = client.read(0, pieces * part)
        for me in range(clients):
            for piece, data in held[me].items():
                assert whole[piece * part : (piece + 1) * part] == data
        stats = server.stats()
        assert stats["counters"]["zswpwb"] > 0
        assert stats["device"]["no_room"] == stats["device"]["io_errors"] == 0
