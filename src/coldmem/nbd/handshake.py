"""The fixed newstyle handshake: what server and client agree on before the first request.

Owns nothing: the socket is the caller's. Guarantees: each option is checked to its last byte and
answered, or refused with the reply that says why; a client that breaks the protocol, sends too much
or takes too long gets `HandshakeError`, and has made us keep no more than `OPTION_BYTES_MAX`.
Assumes: the socket is fresh. Takes no locks.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from coldmem.nbd import protocol as p

HANDSHAKE_S = 30.0


class HandshakeError(Exception):
    """The client is gone, or cannot be talked to any further."""


@dataclass(frozen=True)
class Export:
    """What is offered.

    Parameters
    ----------
    name : str
        The empty name asks for it as well.
    size_bytes : int
    unit_bytes : int
        The preferred size of blocks.
    read_only : bool
    description : str
    """

    name: str
    size_bytes: int
    unit_bytes: int
    read_only: bool = False
    description: str = "compressed memory"

    def flags(self, structured: bool) -> int:
        """The transmission flags."""
        flags = p.HAS_FLAGS | p.SEND_FLUSH | p.SEND_FUA | p.CAN_MULTI_CONN | p.SEND_CACHE
        if self.read_only:
            flags |= p.READ_ONLY
        else:
            flags |= p.SEND_TRIM | p.SEND_WRITE_ZEROES | p.SEND_FAST_ZERO
        return flags | (p.SEND_DF if structured else 0)

    def has_name(self, name: bytes) -> bool:
        """Whether a client that asks for `name` means this export."""
        return name in (b"", self.name.encode())


@dataclass
class Agreed:
    """What the two sides agreed on."""

    structured: bool = False
    allocation: bool = False
    context_name: bytes | None = None  # the export that `allocation` was agreed for


@dataclass
class _Line:
    """The socket, with a time by which the handshake must be over."""

    sock: socket.socket
    until: float = field(default_factory=lambda: time.monotonic() + HANDSHAKE_S)

    def _hurry(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise HandshakeError("the client took too long")
        self.sock.settimeout(left)

    def receive(self, nbytes: int) -> bytes:
        parts = []
        while nbytes:
            self._hurry()
            try:
                part = self.sock.recv(min(nbytes, 65536))
            except OSError as error:
                raise HandshakeError(str(error)) from error
            if not part:
                raise HandshakeError("the client went away")
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)

    def skip(self, nbytes: int) -> None:
        while nbytes:
            nbytes -= len(self.receive(min(nbytes, 65536)))

    def send(self, data: bytes) -> None:
        self._hurry()
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise HandshakeError(str(error)) from error

    def reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.send(struct.pack(">QIII", p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)


class _Refused(Exception):
    """An option is answered with this error."""

    def __init__(self, kind: int, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def shake_hands(
    sock: socket.socket, export: Export, closing: Callable[[], bool] = lambda: False
) -> Agreed | None:
    """Greet a client and answer its options.

    Parameters
    ----------
    sock : socket
        Just accepted. Its timeout is changed.
    export : Export
        What is offered.
    closing : callable
        Says whether the server is about to end; new exports are then refused.

    Returns
    -------
    Agreed or None
        None: the client said goodbye. Else the first request follows.

    Raises
    ------
    HandshakeError
        The client is gone or broke the protocol: close the socket.
    """
    line = _Line(sock)
    line.send(struct.pack(">QQH", p.MAGIC, p.OPTION_MAGIC,
                          p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES))
    (flags,) = struct.unpack(">I", line.receive(4))
    if flags & ~(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES):
        raise HandshakeError(f"unknown flags {flags:#x}")
    talk = _Talk(line, export, flags, closing)
    for _ in range(p.OPTIONS_MAX):
        magic, option, length = struct.unpack(">QII", line.receive(16))
        if magic != p.OPTION_MAGIC:
            raise HandshakeError(f"an option begins with {magic:#x}")
        if talk.option(option, length):
            return talk.agreed if talk.goes_on else None
    raise HandshakeError(f"more than {p.OPTIONS_MAX} options")


class _Talk:
    def __init__(
        self, line: _Line, export: Export, flags: int, closing: Callable[[], bool]
    ) -> None:
        self.line = line
        self.export = export
        self.flags = flags
        self.closing = closing
        self.agreed = Agreed()
        self.goes_on = False

    def option(self, option: int, length: int) -> bool:
        """Answer one option; True: it was the last."""
        if length > (p.NAME_BYTES_MAX if option == p.OPT_EXPORT_NAME else p.OPTION_BYTES_MAX):
            if length > p.OPTION_DRAIN_MAX or option == p.OPT_EXPORT_NAME:
                raise HandshakeError(f"option {option} has {length} bytes")
            self.line.skip(length)
            self.line.reply(option, p.REP_ERR_TOO_BIG, b"too long")
            return False
        data = self.line.receive(length)
        if option == p.OPT_EXPORT_NAME:
            return self._export_name(data)
        if option == p.OPT_ABORT:
            with contextlib.suppress(HandshakeError):  # it may leave without waiting for the answer
                self.line.reply(option, p.REP_ACK)
            return True
        answer = {
            p.OPT_LIST: self._list,
            p.OPT_INFO: self._info,
            p.OPT_GO: self._info,
            p.OPT_STRUCTURED_REPLY: self._structured,
            p.OPT_LIST_META_CONTEXT: self._contexts,
            p.OPT_SET_META_CONTEXT: self._contexts,
        }.get(option)
        try:
            if answer is None:
                raise _Refused(p.REP_ERR_UNSUP, "this server does not know the option")
            if not self.flags & p.FLAG_FIXED_NEWSTYLE:
                raise _Refused(p.REP_ERR_INVALID, "the client did not agree to fixed newstyle")
            answer(option, data)
        except _Refused as refused:
            self.line.reply(option, refused.kind, str(refused).encode())
            return False
        self.goes_on = option == p.OPT_GO
        return self.goes_on

    def _export_name(self, name: bytes) -> bool:
        if not self.export.has_name(name) or self.closing():
            raise HandshakeError(f"there is no export {name!r}")  # there is no other way to say so
        self.agreed.allocation &= self.agreed.context_name == name
        data = struct.pack(">QH", self.export.size_bytes, self.export.flags(self.agreed.structured))
        if not self.flags & p.FLAG_NO_ZEROES:
            data += bytes(124)
        self.line.send(data)
        self.goes_on = True
        return True

    def _list(self, option: int, data: bytes) -> None:
        if data:
            raise _Refused(p.REP_ERR_INVALID, "NBD_OPT_LIST has no data")
        name = self.export.name.encode()
        self.line.reply(option, p.REP_SERVER, struct.pack(">I", len(name)) + name)
        self.line.reply(option, p.REP_ACK)

    def _structured(self, option: int, data: bytes) -> None:
        if data:
            raise _Refused(p.REP_ERR_INVALID, "NBD_OPT_STRUCTURED_REPLY has no data")
        self.agreed.structured = True
        self.line.reply(option, p.REP_ACK)

    def _known(self, name: bytes) -> None:
        if self.closing():
            raise _Refused(p.REP_ERR_SHUTDOWN, "the server is ending")
        if not self.export.has_name(name):
            raise _Refused(p.REP_ERR_UNKNOWN, "there is no export of this name")

    def _info(self, option: int, data: bytes) -> None:
        """INFO and GO: name, then what the client wants to know."""
        fields = _Fields(data)
        name = fields.name()
        wanted = [fields.take(">H") for _ in range(fields.take(">H"))]
        fields.end()
        self._known(name)
        reply = [struct.pack(">HQH", p.INFO_EXPORT, self.export.size_bytes,
                             self.export.flags(self.agreed.structured))]
        if p.INFO_NAME in wanted:
            reply.append(struct.pack(">H", p.INFO_NAME) + self.export.name.encode())
        if p.INFO_DESCRIPTION in wanted:
            reply.append(struct.pack(">H", p.INFO_DESCRIPTION) + self.export.description.encode())
        reply.append(struct.pack(">HIII", p.INFO_BLOCK_SIZE, p.BLOCK_BYTES_MIN,
                                 self.export.unit_bytes, p.PAYLOAD_BYTES_MAX))
        if option == p.OPT_GO:
            self.agreed.allocation &= self.agreed.context_name == name
        for info in reply:
            self.line.reply(option, p.REP_INFO, info)
        self.line.reply(option, p.REP_ACK)

    def _contexts(self, option: int, data: bytes) -> None:
        """LIST_META_CONTEXT and SET_META_CONTEXT: export, then queries."""
        fields = _Fields(data)
        setting = option == p.OPT_SET_META_CONTEXT
        if setting:
            self.agreed.allocation = False  # each such option, a failed one too, replaces the last
            self.agreed.context_name = None
        if not self.agreed.structured:
            raise _Refused(p.REP_ERR_INVALID, "ask for structured replies first")
        name = fields.name()
        count = fields.take(">I")
        if count > p.QUERIES_MAX:
            raise _Refused(p.REP_ERR_TOO_BIG, f"more than {p.QUERIES_MAX} queries")
        queries = [fields.name() for _ in range(count)]
        fields.end()
        self._known(name)
        context = p.CONTEXT_ALLOCATION.encode()
        found = context in queries or (not setting and (not queries or b"base:" in queries))
        if found:
            # In a list the number means nothing.
            number = p.CONTEXT_ALLOCATION_ID if setting else 0
            self.line.reply(option, p.REP_META_CONTEXT, struct.pack(">I", number) + context)
        if setting:
            self.agreed.allocation = found
            self.agreed.context_name = name
        self.line.reply(option, p.REP_ACK)


class _Fields:
    """The data of an option, taken apart; whatever does not fit is refused."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> int:
        try:
            (value,) = struct.unpack_from(form, self.data, self.at)
        except struct.error:
            raise _Refused(p.REP_ERR_INVALID, "the option is too short") from None
        self.at += struct.calcsize(form)
        return int(value)

    def name(self) -> bytes:
        """A length and so many bytes: the name of an export, or a query."""
        length = self.take(">I")
        if length > len(self.data) - self.at:
            raise _Refused(p.REP_ERR_INVALID, "a name is longer than the option")
        if length > p.NAME_BYTES_MAX:
            raise _Refused(p.REP_ERR_INVALID, f"a name is longer than {p.NAME_BYTES_MAX} bytes")
        self.at += length
        return self.data[self.at - length : self.at]

    def end(self) -> None:
        if self.at != len(self.data):
            raise _Refused(p.REP_ERR_INVALID, "the option has bytes left over")
