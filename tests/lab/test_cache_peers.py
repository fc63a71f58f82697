"""The peers of `bench cache`: each keeps what it is given, and those with a limit keep to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import cache_redis
from coldmem.lab.cache_case import equal
from coldmem.lab.cache_corpora import JSON, NUMPY
from coldmem.lab.cache_peers import COLDMEM, COLDMEM_LRU, PEERS, REDIS, Opening, missing, open_peer
from coldmem.lab.cache_redis import RedisServer

MIB = 1 << 20
# What each is given so that hundreds of values of 4 KiB do not fit.
LIMIT_BYTES = {COLDMEM: 2 * MIB, COLDMEM_LRU: 2 * MIB, REDIS: 2 * MIB}
PAGE = Path(__file__).parents[2] / "docs" / "cache_benchmark.md"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """A function that opens a peer, or skips the test where it cannot run."""
    with ExitStack() as undo:
        def make(name: str, value_kind: str = JSON, limit_bytes: int = 0) -> Any:
            reason = missing(name) or (cache_redis.missing() if name == REDIS else "")
            if reason:
                pytest.skip(f"{name}: {reason}")
            how = {"socket": "", "pid": 0}
            if name == REDIS:
                server_folder = tmp_path / "server"
                server_folder.mkdir()
                server = undo.enter_context(RedisServer(server_folder, limit_bytes))
                how = {"socket": server.socket, "pid": server.pid}
            folder = tmp_path / "peer"
            folder.mkdir()
            opening = Opening(value_kind, limit_bytes, folder, lru=bool(limit_bytes), **how)
            peer = open_peer(name, opening)
            undo.callback(peer.close)
            return peer

        yield make


def value_of(number: int, kind: str = JSON) -> Any:
    rng = np.random.default_rng(number)
    return rng.integers(0, 100, 512) if kind == NUMPY else rng.bytes(512) * 2


@pytest.mark.parametrize("kind", [JSON, NUMPY])
@pytest.mark.parametrize("name", PEERS)
def test_what_is_set_is_got(name: str, kind: str, opened: Any) -> None:
    peer = opened(name, kind)
    values = {f"key{n}": value_of(n, kind) for n in range(50)}
    assert peer.get("key1") is None
    for key, value in values.items():
        peer.set(key, value_of(99, kind))
        peer.set(key, value)
    assert all(equal(value, peer.get(key)) for key, value in values.items())
    assert peer.get("key50") is None and peer.entries() == 50
    assert peer.used_bytes() > 0 and not peer.full()


@pytest.mark.parametrize("name", PEERS)
def test_threads(name: str, opened: Any) -> None:
    """Each thread its own keys, all at once."""
    peer = opened(name)
    wrong: list[object] = []

    def work(own: int) -> None:
        try:
            for turn in range(3):
                for n in range(20):
                    peer.set(f"{own}-{n}", value_of(own * 100 + n + turn))
                wrong.extend(
                    (own, n) for n in range(20)
                    if peer.get(f"{own}-{n}") != value_of(own * 100 + n + turn))
        except BaseException as problem:
            wrong.append(problem)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and peer.entries() == 120


@pytest.mark.parametrize("name", [name for name, kind in PEERS.items() if kind.evicts])
def test_a_limit_is_kept(name: str, opened: Any) -> None:
    """What is used all the time stays, and most of the rest goes."""
    limit = LIMIT_BYTES.get(name, 512 << 10)
    peer = opened(name, JSON, limit)
    peer.set("hot", value_of(0))
    count = 6 * limit // 1024
    for n in range(count):
        peer.set(f"cold{n}", np.random.default_rng(n).bytes(1024))
        if not n % 8:
            hot = peer.get("hot")
            if hot is None:
                peer.set("hot", value_of(0))
    assert peer.entries() < count // 2
    assert equal(value_of(0), peer.get("hot"))
    assert peer.used_bytes() < 1.3 * limit
    if PEERS[name].own_limit:
        assert peer.full()


def test_unknown_peers() -> None:
    with pytest.raises(UsageError, match="cachetools-lz4"):
        open_peer("memcached", Opening(JSON))


def test_the_page_names_every_peer() -> None:
    text = PAGE.read_text()
    assert [name for name in PEERS if f"| `{name}` |" not in text] == []


# -- the server ------------------------------------------------------------------------------------
def need_server() -> None:
    if cache_redis.missing():
        pytest.skip(cache_redis.missing())


def test_the_server_is_ours_alone_and_ends(tmp_path: Path) -> None:
    need_server()
    with RedisServer(tmp_path, 8 * MIB) as server:
        assert Path(server.socket).stat().st_mode & 0o077 == 0
        listening = Path(f"/proc/{server.pid}/net/tcp").read_text()
        sockets = {os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir()}
        inodes = {line.split()[9] for line in listening.splitlines()[1:]}
        assert not {f"socket:[{inode}]" for inode in inodes} & sockets, "it listens on TCP"
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    assert not Path(server.socket).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"log"}, "it saved something"


def test_a_server_that_fails_is_gone_and_says_why(tmp_path: Path) -> None:
    need_server()
    deep = tmp_path / ("x" * 120)  # longer than the name of a Unix socket may be
    deep.mkdir()
    with pytest.raises(EnvironmentFailure, match="does not serve: .+"), RedisServer(deep):
        pass


def test_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_redis, "PROGRAM", "redis-server-that-is-not-there")
    with pytest.raises(EnvironmentFailure, match="apt install"), RedisServer(tmp_path):
        pass
