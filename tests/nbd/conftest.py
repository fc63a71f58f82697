"""What tests of the server share: servers, and the wish that nothing is left of them."""

import os
import threading
import time

import pytest

from coldmem.nbd import Server


def threads():
    return {t for t in threading.enumerate() if t.name.startswith("coldmem-nbd")}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def until(true, seconds=20):
    """Wait for what must come to be."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.002)


@pytest.fixture
def serve(tmp_path):
    """`serve(size, ...)`: a server that listens; closed, checked and counted at the end."""
    before = threads()
    made = []

    def make(size="1M", **options):
        path = str(tmp_path / f"s{len(made)}")
        server = Server(size, socket=path, **{"memory_max": "64M", **options})
        server.path = path
        made.append(server)
        return server.start()

    yield make
    for server in made:
        if server._last is None:
            server._zswap.check_valid("full")
            if server._swap is not None:
                server._swap.check_valid()
        server.close()
        assert not os.path.exists(server.path)
    end = time.monotonic() + 5  # a thread whose client has gone may still be on its last lines
    while threads() != before and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == before


@pytest.fixture
def client_of():
    """`client_of(server)`: greeted, in the transmission phase unless go=False."""
    from nbd_client import Client

    made = []

    def make(server, go=True, flags=3, **how):
        made.append(Client(server.path, flags))
        return made[-1].go(**how) if go else made[-1]

    yield make
    for one in made:
        one.sock.close()
