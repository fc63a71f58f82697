"""Sockets to listen on: made, named, and taken away again.

Guarantees: a Unix socket is for its owner only (mode 0600) before anybody can connect to it; one that
a killed server left is replaced, one that is served is not. Owns nothing, takes no locks.
"""

from __future__ import annotations

import os
import socket
import stat
from urllib.parse import quote

from coldmem.errors import EnvironmentFailure, UsageError

BACKLOG = 64
LOOPBACK = "127.0.0.1"


def unix_listener(path: str) -> socket.socket:
    """Listen at `path`.

    Raises
    ------
    UsageError
        Something else has this name, or a server listens there.
    EnvironmentFailure
        The socket cannot be made there.
    """
    _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            made.bind(path)
        except OSError as error:
            if "too long" in str(error):
                raise UsageError(f"the path of a socket may have 107 bytes: {path}") from error
            raise EnvironmentFailure(
                f"cannot make the socket {path}: {os.strerror(error.errno or 0)}") from error
        try:
            os.chmod(path, 0o600)
            made.listen(BACKLOG)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        made.close()
        raise
    return made


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is not a socket: choose another path, or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise UsageError(f"{path} is in use: another server listens there")


def tcp_listener(where: str | int) -> socket.socket:
    """Listen at "[HOST:]PORT"; without a host on the loopback. Port 0: any that is free.

    Raises
    ------
    UsageError
        This is no address.
    EnvironmentFailure
        The address cannot be had.
    """
    host, colon, port = str(where).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65535 or (colon and not host):
        raise UsageError(f"{where!r} is not an address: write PORT or HOST:PORT")
    try:
        found = socket.getaddrinfo(host or LOOPBACK, int(port), type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise EnvironmentFailure(f"cannot listen at {where}: {error.strerror or error}") from error
    return made


def uri(listener: socket.socket, export: str) -> str:
    """How a client names it."""
    name = quote(export, safe="")
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"nbd+unix:///{name}?socket={quote(os.path.abspath(address))}"
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"nbd://{host}:{address[1]}/{name}"
