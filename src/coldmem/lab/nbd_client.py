"""A connection to an NBD server, up to its first request: for `bench nbd`, and the same for all servers.

Owns nothing: the socket is handed to the caller. Simple replies are agreed on, for then a reply to a
read has one length and every server sends the same bytes. Takes no locks.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from coldmem.errors import EnvironmentFailure
from coldmem.nbd import protocol as p

PATIENCE_S = 30.0
_OPTION_REPLY_BYTES = 20


def connect(path: Path) -> tuple[socket.socket, int]:
    """A connection to the default export at a Unix socket, ready for requests; the export's bytes.

    Raises
    ------
    OSError
        Nobody listens there.
    EnvironmentFailure
        Who listens does not speak the protocol, or ended the connection.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        size_bytes = _agree(sock)
        _ask(sock)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock, size_bytes


def disconnect(sock: socket.socket) -> None:
    """Say goodbye; the server may have gone already."""
    try:
        sock.sendall(struct.pack(">IHHQQI", p.REQUEST_MAGIC, 0, p.CMD_DISC, 0, 0, 0))
    except OSError:
        pass
    finally:
        sock.close()


def _receive(sock: socket.socket, nbytes: int) -> bytes:
    got = b""
    while len(got) < nbytes:
        part = sock.recv(nbytes - len(got))
        if not part:
            raise EnvironmentFailure("the NBD server ended the connection")
        got += part
    return got


def _agree(sock: socket.socket) -> int:
    magic, option, flags = struct.unpack(">QQH", _receive(sock, 18))
    if magic != p.MAGIC or option != p.OPTION_MAGIC or not flags & p.FLAG_FIXED_NEWSTYLE:
        raise EnvironmentFailure("that is no NBD server with the fixed newstyle handshake")
    ask = struct.pack(">IH", 0, 0)  # the default export, nothing else to know
    sock.sendall(
        struct.pack(">I", p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)
        + struct.pack(">QII", p.OPTION_MAGIC, p.OPT_GO, len(ask)) + ask
    )
    size_bytes = 0
    while True:
        magic, _, kind, length = struct.unpack(">QIII", _receive(sock, _OPTION_REPLY_BYTES))
        data = _receive(sock, length)
        if magic != p.OPTION_REPLY_MAGIC or kind not in (p.REP_ACK, p.REP_INFO):
            raise EnvironmentFailure(f"the NBD server refused its export ({kind:#x})")
        if kind == p.REP_ACK:
            return size_bytes
        if struct.unpack(">H", data[:2])[0] == p.INFO_EXPORT:
            size_bytes = struct.unpack(">Q", data[2:10])[0]


def _ask(sock: socket.socket) -> None:
    """One request that is not measured: the server's threads for this connection are there after it."""
    sock.sendall(struct.pack(">IHHQQI", p.REQUEST_MAGIC, 0, p.CMD_READ, 0, 0, 4096))
    magic, error = struct.unpack(">II", _receive(sock, 16)[:8])
    if magic != p.SIMPLE_REPLY_MAGIC or error:
        raise EnvironmentFailure("the NBD server failed the first read")
    _receive(sock, 4096)
