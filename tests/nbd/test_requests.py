"""Requests: what each does, and the answer to each that is malformed. The talk goes on after it."""

import random
import struct

import pytest
from nbd_client import REQUEST, Gone
from unit_data import UNIT, noise, same, text

from coldmem.nbd import protocol as p

SIZE = 64 * UNIT
FUA, NO_HOLE, DF, ONE, FAST = 1, 2, 4, 8, 16
DATA, ZEROES, HOLE = 0, 2, 3


@pytest.fixture
def server(serve):
    return serve(SIZE)


@pytest.fixture(params=["structured", "simple"])
def client(request, server, client_of):
    return client_of(server, structured=request.param == "structured")


@pytest.fixture
def full(server, client_of):
    """A client that has agreed on everything."""
    return client_of(server)


def refused(server):
    return server.stats()["device"]["refused"]


# -- what each does -------------------------------------------------------------------------------
def test_what_is_written_is_read(client):
    content = bytearray(SIZE)
    dice = random.Random(1)
    for _ in range(200):
        at = dice.randrange(SIZE)
        n = min(dice.choice([1, 2, 511, 512, UNIT, 3 * UNIT + 7]), SIZE - at)
        data = dice.choice([text, noise])(at)[: min(n, UNIT)].ljust(n, b"z")
        client.write(at, data, dice.choice([0, FUA]))
        content[at : at + n] = data
        assert client.read(at, n) == data
    assert client.read(0, SIZE) == content
    assert client.call(p.CMD_FLUSH).error == 0


def test_zeroes_and_trims(client):
    client.write(0, noise(1, SIZE))
    content = bytearray(noise(1, SIZE))
    client.zero(100, 3 * UNIT)  # parts of the first and the last unit
    content[100 : 100 + 3 * UNIT] = bytes(3 * UNIT)
    assert client.read(0, SIZE) == content
    client.trim(10 * UNIT, 5 * UNIT)
    content[10 * UNIT : 15 * UNIT] = bytes(5 * UNIT)
    assert client.read(0, SIZE) == content
    client.trim(20 * UNIT + 1, UNIT)  # no whole unit: nothing has to happen
    client.zero(30 * UNIT, UNIT, NO_HOLE | FAST | FUA)
    content[30 * UNIT : 31 * UNIT] = bytes(UNIT)
    assert client.read(0, SIZE) == content


def test_a_trim_frees_at_once(server, full):
    full.write(0, noise(1, SIZE))
    stored = server.stats()["zswap"]["stored_bytes"]
    full.trim(0, SIZE - UNIT)
    assert server.stats()["zswap"]["stored_bytes"] == stored // 64
    assert server.stats()["device"]["trimmed_bytes"] == SIZE - UNIT
    full.zero(0, SIZE)
    assert server.stats()["zswap"]["units"] == 0


def test_status(full):
    assert full.status(0, SIZE) == [(SIZE, HOLE)]
    full.write(2 * UNIT + 5, b"x")
    full.write(3 * UNIT, same(7))
    full.zero(10 * UNIT, UNIT, NO_HOLE)
    assert full.status(0, SIZE) == [
        (2 * UNIT, HOLE), (2 * UNIT, DATA), (6 * UNIT, HOLE), (UNIT, ZEROES), (53 * UNIT, HOLE)]
    assert full.status(UNIT + 1, 2 * UNIT) == [(UNIT - 1, HOLE), (UNIT + 1, DATA)]
    assert full.status(0, SIZE, ONE) == [(2 * UNIT, HOLE)]
    assert full.status(SIZE - 1, 1, ONE) == [(1, HOLE)]
    full.zero(2 * UNIT + 5, 1)  # what is left is all zeroes
    assert full.status(2 * UNIT, UNIT) == [(UNIT, HOLE)]
    full.write(3 * UNIT, bytes(UNIT))  # as is what was written as zeroes
    assert full.status(0, 10 * UNIT) == [(10 * UNIT, HOLE)]


def test_holes_are_not_sent(full):
    full.write(4 * UNIT, noise(1))
    out = full.call(p.CMD_READ, 0, SIZE)
    assert [(at, n, content is None) for at, n, content in out.chunks] == [
        (0, 4 * UNIT, True), (4 * UNIT, UNIT, False), (5 * UNIT, SIZE - 5 * UNIT, True)]


def test_many_holes_in_one_read(full):
    """More runs than a reply has chunks: the rest is sent as data."""
    content = bytearray(SIZE)
    big = [unit for unit in range(64) if unit % 2]
    for unit in big:
        full.write(unit * UNIT + 9, b"x")
        content[unit * UNIT + 9 : unit * UNIT + 10] = b"x"
    assert full.read(0, SIZE) == content
    assert full.read(UNIT, SIZE - UNIT) == content[UNIT:]


def test_more_runs_than_chunks(serve, client_of):
    client = client_of(serve(512 * UNIT))
    content = bytearray(512 * UNIT)
    for unit in range(0, 512, 2):
        content[unit * UNIT : unit * UNIT + UNIT] = noise(unit)
        client.write(unit * UNIT, noise(unit))
    for first in (0, UNIT, UNIT + 1):
        out = client.call(p.CMD_READ, first, 500 * UNIT)
        assert out.data(first, 500 * UNIT) == content[first : first + 500 * UNIT]
        assert 63 <= len(out.chunks) <= 64
    runs = client.status(0, 512 * UNIT)
    assert runs == [(UNIT, DATA), (UNIT, HOLE)] * 256


def test_a_status_has_at_most_so_many_runs(serve, client_of):
    units = 10_000
    client = client_of(serve(units * UNIT))
    for first in range(0, units, 200):
        for unit in range(first, first + 200, 2):
            client.request(p.CMD_WRITE, unit * UNIT, 1, 0, b"x")
        for _ in range(100):
            client.reply()
    runs = client.status(0, units * UNIT)
    assert runs == [(UNIT, DATA), (UNIT, HOLE)] * 2048
    assert client.status(4096 * UNIT, 2 * UNIT) == [(UNIT, DATA), (UNIT, HOLE)]


def test_df_gives_one_chunk(full):
    full.write(4 * UNIT, noise(1))
    out = full.call(p.CMD_READ, 0, SIZE, DF)
    ((at, n, content),) = out.chunks
    assert (at, n) == (0, SIZE)
    assert content == bytes(4 * UNIT) + noise(1) + bytes(SIZE - 5 * UNIT)


def test_cache_and_flush(full):
    assert full.call(p.CMD_CACHE, 0, SIZE).error == 0
    assert full.call(p.CMD_FLUSH, 0, 0, FUA).error == 0


def test_the_largest_payload(serve, client_of):
    client = client_of(serve("40M"))
    data = text(1, UNIT) * (p.PAYLOAD_BYTES_MAX // UNIT)
    client.write(3, data)
    assert client.read(3, len(data)) == data


@pytest.mark.parametrize("size", [1, 511, UNIT - 1, UNIT + 1, 3 * UNIT + 100])
def test_a_device_that_ends_within_a_unit(serve, client_of, size):
    client = client_of(serve(size))
    client.write(0, noise(1, size))
    assert client.read(0, size) == noise(1, size)
    assert client.status(0, size) == [(size, DATA)]
    assert client.call(p.CMD_READ, size - 1, 2).error == p.EINVAL
    assert client.call(p.CMD_WRITE, size, 1, 0, b"x").error == p.ENOSPC
    client.trim(0, size)
    assert client.status(0, size) == [(size, HOLE)]  # the rest of the last unit counts as whole
    assert client.read(0, size) == bytes(size)


# -- what is malformed ----------------------------------------------------------------------------
READ, WRITE, FLUSH, TRIM, CACHE, WZ, STATUS = 0, 1, 3, 4, 5, 6, 7


@pytest.mark.parametrize(("command", "offset", "length", "flags", "error"), [
    (READ, SIZE, 1, 0, p.EINVAL),
    (READ, SIZE - 1, 2, 0, p.EINVAL),
    (READ, (1 << 64) - 1, 2, 0, p.EINVAL),
    (READ, (1 << 64) - UNIT, 2 * UNIT, 0, p.EINVAL),
    (READ, 0, 0, 0, p.EINVAL),
    (READ, 0, (32 << 20) + 1, 0, p.EINVAL),
    (READ, 0, 0xFFFFFFFF, 0, p.EINVAL),
    (READ, 0, 1, NO_HOLE, p.EINVAL),
    (READ, 0, 1, ONE, p.EINVAL),
    (READ, 0, 1, 1 << 5, p.EINVAL),
    (READ, 0, 1, 1 << 15, p.EINVAL),
    (WRITE, SIZE, 1, 0, p.ENOSPC),
    (WRITE, SIZE - 1, 2, 0, p.ENOSPC),
    (WRITE, (1 << 64) - 1, 2, 0, p.ENOSPC),
    (WRITE, 0, 0, 0, p.EINVAL),
    (WRITE, 0, 5, DF, p.EINVAL),
    (WRITE, 0, 5, NO_HOLE, p.EINVAL),
    (WRITE, 0, (32 << 20) + 1, 0, p.EINVAL),
    (FLUSH, 1, 0, 0, p.EINVAL),
    (FLUSH, 0, 1, 0, p.EINVAL),
    (FLUSH, 0, 0, DF, p.EINVAL),
    (TRIM, SIZE - UNIT, 2 * UNIT, 0, p.EINVAL),
    (TRIM, 0, 0, 0, p.EINVAL),
    (TRIM, 0, UNIT, NO_HOLE, p.EINVAL),
    (TRIM, UNIT, 0xFFFFFFFF, 0, p.EINVAL),
    (CACHE, SIZE, 1, 0, p.EINVAL),
    (CACHE, 0, 0, 0, p.EINVAL),
    (WZ, SIZE - UNIT, 2 * UNIT, 0, p.ENOSPC),
    (WZ, 0, 0, 0, p.EINVAL),
    (WZ, 0, UNIT, ONE, p.EINVAL),
    (STATUS, SIZE, 1, 0, p.EINVAL),
    (STATUS, 0, 0, 0, p.EINVAL),
    (STATUS, 0, 1, DF, p.EINVAL),
    (8, 0, 1, 0, p.EINVAL),
    (0xFFFF, 0, 0, 0, p.EINVAL),
])
def test_a_bad_request_is_answered_and_changes_nothing(server, client, command, offset, length, flags,
                                                        error):
    client.write(0, b"before")
    bad = client.call(command, offset, length, flags, bytes(length) if command == WRITE else b"")
    assert bad.error == error
    assert bool(bad.message) == client.structured
    assert client.read(0, 8) == b"before\0\0"
    counts = server.stats()["device"]
    assert (counts["refused"], counts["no_room"]) == ((0, 1) if error == p.ENOSPC else (1, 0))


def test_df_and_status_need_structured_replies(server, client_of):
    client = client_of(server, structured=False)
    assert client.call(READ, 0, 1, DF).error == p.EINVAL
    assert client.call(STATUS, 0, 1).error == p.EINVAL


def test_status_needs_its_context(server, client_of):
    client = client_of(server, allocation=False)
    assert client.call(STATUS, 0, 1).error == p.EINVAL


@pytest.mark.parametrize("command", [WRITE, TRIM, WZ])
def test_read_only(serve, client_of, command):
    server = serve(SIZE, read_only=True)
    client = client_of(server)
    assert client.call(command, 0, 4, 0, b"data" if command == WRITE else b"").error == p.EPERM
    assert client.read(0, 4) == bytes(4)
    assert client.call(FLUSH).error == 0
    assert refused(server) == 1


def test_a_wrong_magic_number_ends_the_connection(server, full, client_of):
    other = client_of(server)
    full.request(READ, 0, 1, magic=p.REQUEST_MAGIC ^ 1)
    assert full.is_closed()
    assert other.read(0, 1) == b"\0"
    assert refused(server) == 1


def test_an_absurd_payload_ends_the_connection(server, full):
    full.request(WRITE, 0, p.DRAIN_BYTES_MAX + 1)
    with pytest.raises((Gone, OSError)):
        full.send(bytes(1 << 20) * 8)
        full.receive(1)


def test_requests_taken_before_the_end_are_answered(full):
    """DISC, or nonsense, behind good requests."""
    cookies = {full.request(WRITE, UNIT * i, UNIT, 0, noise(i)) for i in range(20)}
    full.request(p.CMD_DISC)
    assert {full.reply().cookie for _ in range(20)} == cookies
    assert full.is_closed()


def test_a_cookie_is_given_back_as_it_came(full):
    for cookie in (0, (1 << 64) - 1, 0x0123456789ABCDEF):
        full.lengths[cookie] = 0
        full.send(REQUEST.pack(p.REQUEST_MAGIC, 0, FLUSH, cookie, 0, 0))
        assert full.reply().cookie == cookie


def test_requests_in_any_pieces(full):
    """The stream is bytes: where one send ends and the next begins means nothing."""
    stream = b"".join(
        REQUEST.pack(p.REQUEST_MAGIC, 0, WRITE, i, i * 3000, 3000) + noise(i, 3000)
        for i in range(30))
    full.lengths = dict.fromkeys(range(30), 0)
    dice = random.Random(5)
    at = 0
    while at < len(stream):
        n = dice.choice([1, 3, 27, 28, 29, 500, 8192, 20_000])
        full.send(stream[at : at + n])
        at += n
    assert {full.reply().cookie for _ in range(30)} == set(range(30))
    assert full.read(0, 90_000) == b"".join(noise(i, 3000) for i in range(30))


def test_many_at_once(full):
    """Answers come in any order, each to its own request."""
    for unit in range(64):
        full.write(unit * UNIT, struct.pack("<Q", unit) * 512)
    wanted = {}
    for i in range(1000):
        if i >= 20:
            out = full.reply()
            unit = wanted.pop(out.cookie)
            assert out.data(unit * UNIT, UNIT) == struct.pack("<Q", unit) * 512
        if i < 980:
            unit = i * 7 % 64
            wanted[full.request(READ, unit * UNIT, UNIT)] = unit
    assert not wanted
