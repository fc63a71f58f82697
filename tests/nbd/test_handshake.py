"""The handshake: what is offered, and that every malformed option is refused and forgotten."""

import struct

import pytest
from nbd_client import OPTION_HEAD, Gone, counted, info, queries

from coldmem.nbd import protocol as p


@pytest.fixture
def fresh(serve, client_of):
    server = serve("1M", export="disk")
    return lambda **how: client_of(server, go=False, **how)


def sizes(replies):
    return {struct.unpack_from(">H", data)[0]: data[2:] for kind, data in replies
            if kind == p.REP_INFO}


@pytest.mark.parametrize("option", [p.OPT_INFO, p.OPT_GO])
@pytest.mark.parametrize("name", [b"", b"disk"])
def test_info_says_size_flags_and_blocks(fresh, option, name):
    found = sizes(fresh().option(option, info(name, p.INFO_NAME, p.INFO_DESCRIPTION, 77)))
    assert found.keys() == {p.INFO_EXPORT, p.INFO_NAME, p.INFO_DESCRIPTION, p.INFO_BLOCK_SIZE}
    size, flags = struct.unpack(">QH", found[p.INFO_EXPORT])
    assert size == 1 << 20
    assert flags == (p.HAS_FLAGS | p.SEND_FLUSH | p.SEND_FUA | p.SEND_TRIM | p.SEND_WRITE_ZEROES
                     | p.CAN_MULTI_CONN | p.SEND_CACHE | p.SEND_FAST_ZERO)
    assert struct.unpack(">III", found[p.INFO_BLOCK_SIZE]) == (1, 4096, 32 << 20)
    assert found[p.INFO_NAME] == b"disk"


def test_df_is_offered_with_structured_replies_only(fresh):
    client = fresh()
    assert client.ask(p.OPT_STRUCTURED_REPLY) == p.REP_ACK
    _, flags = struct.unpack(">QH", sizes(client.option(p.OPT_INFO, info()))[p.INFO_EXPORT])
    assert flags & p.SEND_DF


def test_read_only_offers_no_changes(serve, client_of):
    client = client_of(serve(read_only=True), go=False)
    _, flags = struct.unpack(">QH", sizes(client.option(p.OPT_INFO, info()))[p.INFO_EXPORT])
    assert flags & p.READ_ONLY
    assert not flags & (p.SEND_TRIM | p.SEND_WRITE_ZEROES | p.SEND_FAST_ZERO)


def test_list(fresh):
    (kind, data), last = fresh().option(p.OPT_LIST)
    assert (kind, data, last) == (p.REP_SERVER, counted(b"disk"), (p.REP_ACK, b""))


def test_contexts_are_listed_and_set(fresh):
    client = fresh()
    client.ask(p.OPT_STRUCTURED_REPLY)
    offered = [(p.REP_META_CONTEXT, bytes(4) + b"base:allocation"), (p.REP_ACK, b"")]
    for asked in ([], [b"base:"], [b"base:allocation"], [b"x:", b"base:allocation"]):
        assert client.option(p.OPT_LIST_META_CONTEXT, queries(b"disk", *asked)) == offered
    for asked in ([b"x:"], [b"base:other"], [b"base"]):
        assert client.option(p.OPT_LIST_META_CONTEXT, queries(b"disk", *asked)) == offered[1:]
    chosen = [(p.REP_META_CONTEXT, b"\0\0\0\1base:allocation"), (p.REP_ACK, b"")]
    assert client.option(p.OPT_SET_META_CONTEXT, queries(b"", b"base:allocation")) == chosen
    # Asking for nothing, or for a whole namespace, selects nothing.
    for asked in ([], [b"base:"]):
        assert client.option(p.OPT_SET_META_CONTEXT, queries(b"", *asked)) == offered[1:]


@pytest.mark.parametrize("last", ["none", "failed", "another export"])
def test_a_context_counts_for_its_export_and_until_the_next_set(fresh, last):
    client = fresh()
    client.ask(p.OPT_STRUCTURED_REPLY)
    client.structured = True
    client.ask(p.OPT_SET_META_CONTEXT, queries(b"", b"base:allocation"))
    if last == "none":
        client.ask(p.OPT_SET_META_CONTEXT, queries(b""))
    if last == "failed":
        assert client.ask(p.OPT_SET_META_CONTEXT, b"short") == p.REP_ERR_INVALID
    client.ask(p.OPT_GO, info(b"disk" if last == "another export" else b""))
    assert client.call(p.CMD_BLOCK_STATUS, 0, 4096).error == p.EINVAL


@pytest.mark.parametrize(("option", "data", "kind"), [
    (p.OPT_LIST, b"x", p.REP_ERR_INVALID),
    (p.OPT_STRUCTURED_REPLY, b"x", p.REP_ERR_INVALID),
    (p.OPT_STARTTLS, b"", p.REP_ERR_UNSUP),
    (11, b"", p.REP_ERR_UNSUP),
    (0, b"data", p.REP_ERR_UNSUP),
    (0xFFFFFFFF, b"", p.REP_ERR_UNSUP),
    (p.OPT_GO, b"", p.REP_ERR_INVALID),
    (p.OPT_GO, b"\0\0\0", p.REP_ERR_INVALID),
    (p.OPT_GO, b"\0\0\0\0", p.REP_ERR_INVALID),
    (p.OPT_GO, b"\0\0\0\5abc\0\0", p.REP_ERR_INVALID),
    (p.OPT_GO, b"\xff\xff\xff\xff", p.REP_ERR_INVALID),
    (p.OPT_GO, info() + b"x", p.REP_ERR_INVALID),
    (p.OPT_GO, info()[:-2] + b"\0\2\0\0", p.REP_ERR_INVALID),
    (p.OPT_GO, info(b"a" * 4097), p.REP_ERR_INVALID),
    (p.OPT_GO, info(b"other"), p.REP_ERR_UNKNOWN),
    (p.OPT_GO, info(b"\xff\0"), p.REP_ERR_UNKNOWN),
    (p.OPT_INFO, info(b"other"), p.REP_ERR_UNKNOWN),
    (p.OPT_GO, bytes((64 << 10) + 1), p.REP_ERR_TOO_BIG),
    (p.OPT_LIST, bytes(1 << 20), p.REP_ERR_TOO_BIG),
    (p.OPT_SET_META_CONTEXT, queries(b"", b"base:allocation"), p.REP_ERR_INVALID),
    (p.OPT_LIST_META_CONTEXT, queries(b""), p.REP_ERR_INVALID),
])
def test_a_bad_option_is_refused_and_the_talk_goes_on(fresh, option, data, kind):
    client = fresh()
    (answer, why), = client.option(option, data)
    assert answer == kind
    assert why
    assert client.ask(p.OPT_INFO, info(b"disk")) == p.REP_ACK


@pytest.mark.parametrize("option", [p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT])
@pytest.mark.parametrize(("data", "kind"), [
    (b"", p.REP_ERR_INVALID),
    (counted(b""), p.REP_ERR_INVALID),
    (queries(b"", b"base:allocation")[:-1], p.REP_ERR_INVALID),
    (queries(b"", b"base:allocation") + b"x", p.REP_ERR_INVALID),
    (counted(b"") + b"\0\0\0\2" + counted(b"base:allocation"), p.REP_ERR_INVALID),
    (counted(b"") + b"\xff\xff\xff\xff", p.REP_ERR_TOO_BIG),
    (queries(b"other", b"base:allocation"), p.REP_ERR_UNKNOWN),
])
def test_bad_queries_are_refused(fresh, option, data, kind):
    client = fresh()
    client.ask(p.OPT_STRUCTURED_REPLY)
    assert client.ask(option, data) == kind
    assert client.ask(p.OPT_SET_META_CONTEXT, queries(b"", b"base:allocation")) == p.REP_ACK


def test_abort(fresh):
    client = fresh()
    assert client.ask(p.OPT_ABORT) == p.REP_ACK
    assert client.is_closed()


@pytest.mark.parametrize("zeroes", [True, False])
def test_the_old_way_to_name_an_export(fresh, zeroes):
    client = fresh(flags=1 if zeroes else 3)
    client.send(OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 4) + b"disk")
    size, flags = struct.unpack(">QH", client.receive(10))
    assert (size, flags & p.HAS_FLAGS) == (1 << 20, 1)
    if zeroes:
        assert client.receive(124) == bytes(124)
    client.write(5, b"hello")
    assert client.read(0, 12) == b"\0\0\0\0\0hello\0\0"


def test_a_client_from_before_fixed_newstyle_can_name_an_export_only(fresh):
    client = fresh(flags=0)
    assert client.ask(p.OPT_GO, info()) == p.REP_ERR_INVALID
    client.send(OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 0))
    assert len(client.receive(134)) == 134


@pytest.mark.parametrize("bad", [
    lambda: OPTION_HEAD.pack(p.OPTION_MAGIC ^ 1, p.OPT_LIST, 0),
    lambda: OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_LIST, (1 << 20) + 1),
    lambda: OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_LIST, 0xFFFFFFFF),
    lambda: OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 5) + b"other",
    lambda: OPTION_HEAD.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 4097) + bytes(4097),
], ids=["magic", "long", "longest", "unknown", "long name"])
def test_what_cannot_be_answered_ends_the_connection(fresh, bad):
    client = fresh()
    client.send(bad())
    assert client.is_closed()
    assert fresh().ask(p.OPT_LIST) == p.REP_ACK


def test_unknown_flags_of_a_client_end_it(fresh):
    assert fresh(flags=4 | 3).is_closed()


def test_endless_options_end_it(fresh):
    client = fresh()
    with pytest.raises((Gone, OSError)):
        for _ in range(p.OPTIONS_MAX + 1):
            client.ask(p.OPT_STRUCTURED_REPLY)


def test_a_silent_client_is_not_waited_for(serve, client_of, monkeypatch):
    from coldmem.nbd import handshake

    monkeypatch.setattr(handshake, "HANDSHAKE_S", 0.05)
    server = serve()
    assert client_of(server, go=False).is_closed()
    drip = client_of(server, go=False)
    with pytest.raises(OSError):
        for _ in range(10_000):  # a byte at a time does not put it off
            drip.send(b"I"[:1])
            drip.sock.settimeout(0.005)
            try:
                if not drip.sock.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                pass
