"""The life of a server: addresses, clients that misbehave or die, and how it ends."""

import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from nbd_client import REQUEST, Client, Gone
from unit_data import UNIT, noise, text

from coldmem.errors import (
    EnvironmentFailure,
    InvalidQuantityError,
    SwapFileError,
    UnknownCodecError,
    UsageError,
)
from coldmem.nbd import Server
from coldmem.nbd import protocol as p
from coldmem.nbd import server as server_module
from coldmem.testing.faults import Fault, FaultPlan

from .conftest import descriptors, threads, until


# -- addresses ------------------------------------------------------------------------------------
def test_tcp_on_the_loopback():
    with Server("1M", tcp=0, memory_max="1M", export="a b") as server:
        (uri,) = server.uris
        assert uri.startswith("nbd://127.0.0.1:") and uri.endswith("/a%20b")
        port = int(uri.split(":")[2].split("/")[0])
        with Client(("127.0.0.1", port)) as client:
            client.go(name=b"a b").write(7, b"hello")
            assert client.read(7, 5) == b"hello"


def test_both_at_once(tmp_path):
    with Server("1M", tcp="localhost:0", socket=tmp_path / "s", memory_max="1M") as server:
        assert len(server.uris) == 2
        port = int(server.uris[1].split(":")[2].split("/")[0])
        with Client(str(tmp_path / "s")) as one, Client(("127.0.0.1", port)) as two:
            one.go().write(0, b"x")
            assert two.go().read(0, 1) == b"x"


def test_the_socket_is_the_owners_only(serve):
    mode = os.stat(serve().path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_socket_that_is_served_is_not_taken(serve):
    server = serve()
    with pytest.raises(UsageError, match="in use"):
        Server("1M", socket=server.path)
    with Client(server.path) as client:
        client.go()


def test_a_dead_servers_socket_is_taken(tmp_path):
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    with Server("1M", socket=path, memory_max="1M"), Client(path) as client:
        client.go()
    assert not os.path.exists(path)


def test_something_else_of_this_name_stays(tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        Server("1M", socket=tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_name_that_somebody_else_took_is_left(tmp_path):
    with Server("1M", socket=tmp_path / "s", memory_max="1M"):
        os.unlink(tmp_path / "s")
        (tmp_path / "s").write_text("other")
    assert (tmp_path / "s").read_text() == "other"


@pytest.mark.parametrize(("options", "error", "what"), [
    ({"size": "0"}, UsageError, "0 bytes"),
    ({"size": "17T"}, UsageError, "choose 1 to"),
    ({"size": "big"}, InvalidQuantityError, "big"),
    ({"unit_bytes": 5000}, UsageError, "choose 4096"),
    ({"unit_bytes": 0}, UsageError, "choose 4096"),
    ({"codec": "nope"}, UnknownCodecError, "nope"),
    ({"locking": "nope"}, UsageError, "locking"),
    ({"memory_max": "1K"}, UsageError, "limit"),
    ({"threads": 0}, UsageError, "1 to 64"),
    ({"threads": 65}, UsageError, "1 to 64"),
    ({"export": "x" * 256}, UsageError, "255 bytes"),
    ({"swap_max": "1M"}, UsageError, "swapfile"),
    ({"swapfile": "/etc/passwd"}, UsageError, "exists already"),
    ({"swapfile": "/no/such/place"}, SwapFileError, "no such directory"),
    ({"socket": "/no/such/place/s"}, EnvironmentFailure, "cannot make the socket"),
    ({"socket": "/tmp/" + "x" * 108}, UsageError, "107 bytes"),
    ({"socket": None}, UsageError, "nowhere to serve"),
    ({"tcp": "x"}, UsageError, "not an address"),
    ({"tcp": ":80"}, UsageError, "not an address"),
    ({"tcp": 65536}, UsageError, "not an address"),
    ({"tcp": "203.0.113.1:1"}, EnvironmentFailure, "cannot listen"),
])
def test_bad_arguments_leave_nothing_behind(tmp_path, options, error, what):
    path = tmp_path / "s"
    gc.collect()
    before = descriptors(), threads(), len(threading.enumerate())
    with pytest.raises(error, match=what):
        Server(**{"size": "1M", "socket": path, "memory_max": "1M", "swapfile": None, **options})
    gc.collect()
    assert (descriptors(), threads(), len(threading.enumerate())) == before
    assert not path.exists()


def test_a_swap_file_beside_a_name(tmp_path):
    with Server("4M", socket=tmp_path / "s", memory_max="64K", swapfile=tmp_path / "swap",
                swap_max="2M") as server:
        with Client(str(tmp_path / "s")) as client:
            client.go()
            for unit in range(100):
                client.write(unit * UNIT, noise(unit))
            assert client.read(0, 100 * UNIT) == b"".join(noise(unit) for unit in range(100))
        assert os.listdir(tmp_path) == ["s"]
        stats = server.stats()
        assert stats["counters"]["zswpwb"] > 60
        assert stats["swap"]["swap_max_bytes"] == 2 << 20
    assert server.stats()["zswap"]["units"] == 100  # as it was at the end
    assert os.listdir(tmp_path) == []


# -- clients that misbehave -----------------------------------------------------------------------
def test_disk_and_pool_full(serve, client_of, tmp_path):
    server = serve("8M", memory_max="64K", swapfile=tmp_path, swap_max="128K")
    client = client_of(server)
    errors = [client.call(p.CMD_WRITE, i * UNIT, UNIT, 0, noise(i)).error for i in range(200)]
    assert errors[0] == 0 and errors[-1] == p.ENOSPC
    assert server.stats()["device"]["no_room"] == errors.count(p.ENOSPC)
    for i, error in enumerate(errors):
        assert client.read(i * UNIT, UNIT) == (bytes(UNIT) if error else noise(i))
    client.trim(0, 100 * UNIT)
    client.write(0, noise(7))


@pytest.mark.parametrize("structured", [True, False])
def test_a_failing_disk(serve, client_of, tmp_path, structured):
    server = serve("1M", memory_max="64K", swapfile=tmp_path)
    client = client_of(server, structured=structured)
    for i in range(60):
        client.write(i * UNIT, noise(i))
    with FaultPlan([Fault("read", "error")]).installed(server._swap):
        out = client.call(p.CMD_READ, 0, 60 * UNIT)
        assert out.error == p.EIO
        if structured:
            assert out.bad_offset is not None and out.bad_offset < 60 * UNIT
            assert out.bad_offset % UNIT == 0
            assert client.call(p.CMD_WRITE, out.bad_offset + 1, 1, 0, b"x").error == p.EIO
    assert client.read(0, 60 * UNIT) == b"".join(noise(i) for i in range(60))
    assert server.stats()["device"]["io_errors"] >= 1


def test_too_many_clients(serve, client_of):
    server = serve(connections_max=2)
    one, two = client_of(server), client_of(server)
    with socket.socket(socket.AF_UNIX) as third:
        third.settimeout(10)
        third.connect(server.path)
        assert third.recv(1) == b""
    assert server.stats()["connections_turned_away"] == 1
    one.disconnect()
    until(lambda: server.stats()["connections_open"] == 1)
    client_of(server).write(0, b"x")
    assert two.read(0, 1) == b"x"


def test_a_client_that_reads_no_answers_holds_up_nobody(serve, client_of):
    server = serve("4M")
    lazy, busy = client_of(server), client_of(server)
    lazy.write(0, noise(1, 1 << 20))
    lazy.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        for _ in range(10_000):
            lazy.request(p.CMD_READ, 0, 1 << 20)
    for _ in range(50):
        assert busy.read(0, UNIT) == noise(1, 1 << 20)[:UNIT]


@pytest.mark.parametrize("cut", [0, 1, 27, 28, 29, 28 + UNIT - 1])
def test_a_client_that_leaves_in_the_middle(serve, client_of, cut):
    server = serve()
    stays = client_of(server)
    gone = client_of(server)
    gone.write(0, text(1))
    gone.send((REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, UNIT) + noise(1))[:cut])
    gone.sock.close()
    until(lambda: server.stats()["connections_open"] == 1)
    assert stays.read(0, UNIT) == text(1), "half a request was done"


def test_a_killed_client(serve):
    """SIGKILL with requests under way: its connection ends, and nothing of it is left."""
    server = serve("8M")
    before = descriptors(), len(threading.enumerate())
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from nbd_client import Client
client = Client({server.path!r}).go()
print("ready", flush=True)
data = bytes(range(256)) * 4096
while True:
    for at in range(0, 8 << 20, len(data)):
        client.request(1, at, len(data), 0, data)
    for at in range(0, 8 << 20, len(data)):
        client.reply()
"""
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
        until(lambda: server.stats()["connections_open"] == 0)
    until(lambda: (descriptors(), len(threading.enumerate())) == before)
    with Client(server.path) as client:
        assert client.go().read(1 << 20, 8) in (bytes(8), bytes(range(8)))


def test_connections_leave_nothing(serve):
    server = serve()
    with Client(server.path) as client:
        client.go()
    until(lambda: not server._clients)
    before = descriptors(), len(threading.enumerate())
    for i in range(100):
        with Client(server.path) as client:
            if i % 3:
                client.go()
            if i % 3 == 2:
                client.write(0, b"x")
                client.disconnect()
    until(lambda: (descriptors(), len(threading.enumerate())) == before)
    assert server.stats()["device"]["requests"]["disconnect"] == 33


def test_no_thread_to_be_had(serve, client_of, monkeypatch):
    """Fewer threads will do; a client for whom there is none at all is turned away."""
    server = serve(threads=4)
    real = threading.Thread.start

    def start(self):
        if self.name in refused:
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    refused = ["coldmem-nbd-helper"]
    client_of(server).write(0, b"x")
    refused.append("coldmem-nbd-client")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(server.path)
        assert sock.recv(1) == b""
    refused.clear()
    assert client_of(server).read(0, 1) == b"x"


# -- the end --------------------------------------------------------------------------------------
def test_close_with_clients_connected(serve, client_of):
    server = serve("1M", threads=4)
    idle, greeting, busy = client_of(server), client_of(server, go=False), client_of(server)
    cookies = [busy.request(p.CMD_WRITE, i * UNIT, UNIT, 0, noise(i)) for i in range(4)]
    assert {busy.reply().cookie for _ in cookies} == set(cookies)
    server.close()
    assert idle.is_closed() and greeting.is_closed() and busy.is_closed()
    assert not os.path.exists(server.path)
    assert server.stats()["zswap"]["units"] == 4
    server.close()
    with pytest.raises(UsageError):
        server.start()


def test_close_wakes_threads_that_wait_on_tcp(monkeypatch):
    cut, shut = [], server_module._shut
    monkeypatch.setattr(server_module, "_shut", lambda sock: (cut.append(sock), shut(sock)))
    server = Server("1M", tcp=0, memory_max="1M", threads=3).start()
    port = int(server.uris[0].split(":")[2].split("/")[0])
    with Client(("127.0.0.1", port)) as client:
        client.go().write(0, b"x")
        server.close()
        assert client.is_closed()
    assert not threads()
    assert cut == [], "it had to be cut off"


def test_close_answers_what_is_under_way(serve, client_of, tmp_path):
    server = serve("1M", memory_max="64K", swapfile=tmp_path)
    client = client_of(server)
    for i in range(60):
        client.write(i * UNIT, noise(i))
    with FaultPlan([Fault("read", "delay", argument=300)]).installed(server._swap):
        reads = server._swap.stats()["reads"]
        unit = next(i for i in range(60) if _is_slow(client, server, i, reads))
        client.request(p.CMD_READ, unit * UNIT, UNIT)
        time.sleep(0.1)
        closer = threading.Thread(target=server.close)
        closer.start()
        out = client.reply()
        assert out.error == 0
        assert out.data(unit * UNIT, UNIT) == noise(unit)
        assert client.is_closed()
        closer.join()


def _is_slow(client, server, unit, reads):
    client.read(unit * UNIT, UNIT)
    return server._swap.stats()["reads"] > reads


def test_close_does_not_wait_for_a_client_that_reads_nothing(serve, client_of, monkeypatch):
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.1)
    server = serve("4M")
    lazy = client_of(server)
    lazy.write(0, noise(1, 1 << 20))
    lazy.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        for _ in range(10_000):
            lazy.request(p.CMD_READ, 0, 1 << 20)
    server.close()
    assert not server._clients


def test_close_while_clients_come_and_go(tmp_path):
    for _ in range(5):
        server = Server("1M", socket=tmp_path / "s", memory_max="1M").start()
        stop = threading.Event()

        def come_and_go(stop=stop):
            while not stop.is_set():
                try:
                    with Client(str(tmp_path / "s")) as client:
                        client.go().write(0, b"x" * 5000)
                except (OSError, Gone, AssertionError):
                    pass  # refused: it is ending

        crew = [threading.Thread(target=come_and_go) for _ in range(3)]
        for one in crew:
            one.start()
        time.sleep(0.05)
        server.close()
        stop.set()
        for one in crew:
            one.join()
        assert not server._clients
        assert not threads()


def test_a_server_that_never_started(tmp_path):
    server = Server("1M", socket=tmp_path / "s", memory_max="1M")
    server.close()
    assert not (tmp_path / "s").exists()


# -- more -----------------------------------------------------------------------------------------
def test_what_stays_cold_is_packed_again(serve, client_of, monkeypatch):
    monkeypatch.setattr(server_module, "RECOMPRESS_S", 0.02)
    server = serve(cold_codec="zstd")
    client = client_of(server)
    for i in range(50):
        client.write(i * UNIT, text(i))
    until(lambda: server.stats()["counters"]["recompressed"] > 0)
    assert client.read(0, 50 * UNIT) == b"".join(text(i) for i in range(50))


def test_a_record_of_what_clients_did(serve, client_of):
    server = serve(record=True)
    client = client_of(server)
    client.write(0, text(1) + noise(2))
    client.read(UNIT, UNIT)
    client.trim(0, UNIT)
    with pytest.raises(UsageError, match="close it first"):
        server.trace()
    server.close()
    trace = server.trace({"cpus": 2})
    assert (trace.op.tolist(), trace.slot.tolist()) == ([0, 0, 1, 2], [0, 1, 1, 0])
    assert trace.codec == "lz4" and trace.machine == {"cpus": 2}
    quiet = serve()
    quiet.close()
    with pytest.raises(UsageError, match="record=True"):
        quiet.trace()


def test_statistics(serve, client_of):
    import json

    server = serve(lock_statistics=True)
    client = client_of(server)
    client.write(0, text(0))
    client.read(0, UNIT)
    stats = json.loads(json.dumps(server.stats()))
    assert stats["device"]["requests"]["write"] == stats["device"]["requests"]["read"] == 1
    assert stats["device"]["written_bytes"] == stats["device"]["read_bytes"] == UNIT
    assert stats["connections_open"] == stats["device"]["connections"] == 1
    assert stats["locks"]["shard"]["acquisitions"] > 0
    assert stats["swap"] is None
