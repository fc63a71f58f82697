"""A client of our own for the tests of the server: it can say anything, also what no client may say."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

from coldmem.nbd import protocol as p

TIMEOUT_S = 20
OPTION_HEAD = struct.Struct(">QII")
REPLY_HEAD = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")


@dataclass
class Reply:
    """An answer, whole: of a structured one all chunks."""

    cookie: int
    error: int = 0
    message: str = ""
    bad_offset: int | None = None
    chunks: list[tuple[int, int, bytes | None]] = field(default_factory=list)  # None: a hole
    extents: list[tuple[int, int]] = field(default_factory=list)

    def data(self, offset: int, length: int) -> bytes:
        """What the chunks of a read add up to; they must cover it all, each byte once."""
        out, seen = bytearray(length), bytearray(length)
        for at, n, content in self.chunks:
            place = slice(at - offset, at - offset + n)
            assert offset <= at and at + n <= offset + length
            assert not any(seen[place])
            seen[place] = b"\1" * n
            if content is not None:
                assert len(content) == n
                out[place] = content
        assert all(seen)
        return bytes(out)


class Gone(Exception):
    """The server closed the connection."""


class Client:
    """Connected and greeted. `go` begins the transmission phase."""

    def __init__(self, address: str | tuple[str, int], flags: int = 3) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.structured = False
        self.cookie = 0
        self.lengths: dict[int, int] = {}
        self.partial: dict[int, Reply] = {}
        try:
            self.sock.connect(address)
            magic, options, self.server_flags = struct.unpack(">QQH", self.receive(18))
            assert (magic, options) == (p.MAGIC, p.OPTION_MAGIC)
            self.send(struct.pack(">I", flags))
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, n: int) -> bytes:
        parts = []
        while n:
            try:
                part = self.sock.recv(n)
            except ConnectionError as error:
                raise Gone from error
            if not part:
                raise Gone
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Whether the server closes; False when it sends something instead."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    # -- handshake ---------------------------------------------------------------------------------
    def option(self, number: int, data: bytes = b"", length: int | None = None
               ) -> list[tuple[int, bytes]]:
        """Replies up to the one that ends it: an acknowledgement or an error."""
        head = OPTION_HEAD.pack(p.OPTION_MAGIC, number, len(data) if length is None else length)
        self.send(head + data)
        found = []
        while True:
            magic, option, kind, n = REPLY_HEAD.unpack(self.receive(20))
            assert (magic, option) == (p.OPTION_REPLY_MAGIC, number)
            found.append((kind, self.receive(n)))
            if kind == p.REP_ACK or kind & 1 << 31:
                return found

    def ask(self, number: int, data: bytes = b"", length: int | None = None) -> int:
        """The last reply's kind."""
        return self.option(number, data, length)[-1][0]

    def go(self, structured: bool = True, allocation: bool = True, name: bytes = b"") -> Client:
        if structured:
            assert self.ask(p.OPT_STRUCTURED_REPLY) == p.REP_ACK
            self.structured = True
        if allocation and structured:
            assert self.ask(p.OPT_SET_META_CONTEXT, queries(name, b"base:allocation")) == p.REP_ACK
        assert self.ask(p.OPT_GO, info(name)) == p.REP_ACK
        return self

    # -- transmission ------------------------------------------------------------------------------
    def request(self, command: int, offset: int = 0, length: int = 0, flags: int = 0,
                data: bytes = b"", magic: int = p.REQUEST_MAGIC) -> int:
        self.cookie += 1
        self.lengths[self.cookie] = length if command == p.CMD_READ else 0
        self.send(REQUEST.pack(magic, flags, command, self.cookie, offset, length) + data)
        return self.cookie

    def reply(self) -> Reply:
        """The next answer that is complete, to whichever request."""
        while True:
            (magic,) = struct.unpack(">I", self.receive(4))
            if magic == p.SIMPLE_REPLY_MAGIC:
                error, cookie = struct.unpack(">IQ", self.receive(12))
                out = Reply(cookie, error)
                length = self.lengths.pop(cookie)
                assert not self.structured or not length, "a read needs a structured reply"
                if length and not error:
                    out.chunks.append((-1, length, self.receive(length)))
                return out
            assert magic == p.STRUCTURED_REPLY_MAGIC and self.structured
            flags, kind, cookie, n = struct.unpack(">HHQI", self.receive(16))
            content = self.receive(n)
            out = self.partial.setdefault(cookie, Reply(cookie))
            self._chunk(out, kind, content)
            if flags & p.REPLY_FLAG_DONE:
                del self.lengths[cookie]
                return self.partial.pop(cookie)

    def _chunk(self, out: Reply, kind: int, content: bytes) -> None:
        if kind == p.REPLY_OFFSET_DATA:
            (offset,) = struct.unpack_from(">Q", content)
            out.chunks.append((offset, len(content) - 8, content[8:]))
        elif kind == p.REPLY_OFFSET_HOLE:
            offset, n = struct.unpack(">QI", content)
            out.chunks.append((offset, n, None))
        elif kind == p.REPLY_BLOCK_STATUS:
            words = struct.unpack(f">{len(content) // 4}I", content)
            assert words[0] == p.CONTEXT_ALLOCATION_ID
            out.extents = list(zip(words[1::2], words[2::2], strict=True))
        elif kind in (p.REPLY_ERROR, p.REPLY_ERROR_OFFSET):
            out.error, n = struct.unpack_from(">IH", content)
            out.message = content[6 : 6 + n].decode()
            rest = content[6 + n :]
            if kind == p.REPLY_ERROR_OFFSET:
                (out.bad_offset,) = struct.unpack(">Q", rest)
            else:
                assert not rest
        else:
            assert kind == p.REPLY_NONE and not content

    def call(self, command: int, offset: int = 0, length: int = 0, flags: int = 0,
             data: bytes = b"") -> Reply:
        cookie = self.request(command, offset, length, flags, data)
        out = self.reply()
        assert out.cookie == cookie
        return out

    # -- what succeeds -----------------------------------------------------------------------------
    def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        out = self.call(p.CMD_READ, offset, length, flags)
        assert out.error == 0, out
        if not self.structured:
            ((_, _, content),) = out.chunks
            assert content is not None
            return content
        return out.data(offset, length)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        assert self.call(p.CMD_WRITE, offset, len(data), flags, data).error == 0

    def trim(self, offset: int, length: int) -> None:
        assert self.call(p.CMD_TRIM, offset, length).error == 0

    def zero(self, offset: int, length: int, flags: int = 0) -> None:
        assert self.call(p.CMD_WRITE_ZEROES, offset, length, flags).error == 0

    def status(self, offset: int, length: int, flags: int = 0) -> list[tuple[int, int]]:
        out = self.call(p.CMD_BLOCK_STATUS, offset, length, flags)
        assert out.error == 0, out
        return out.extents

    def disconnect(self) -> None:
        self.request(p.CMD_DISC)
        assert self.is_closed()


def counted(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def info(name: bytes = b"", *wanted: int) -> bytes:
    """Data of INFO and GO."""
    return counted(name) + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


def queries(name: bytes, *asked: bytes) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return counted(name) + struct.pack(">I", len(asked)) + b"".join(map(counted, asked))
