"""The client of ``bench nbd``: one connection a thread, several requests under way, no GIL.

Owns: of each client its buffer, the requests under way and a histogram of their times. The sockets,
or the open device, are the caller's.
Guarantees: each offset of the order is asked for once. A request's time runs from before it is sent to
when its reply is there to the last byte. Reads are compared with what they must give: both ends, or
with `compare_all` every byte. A request that fails ends its client, and `totals` says so.
Assumes: the transmission phase, with simple replies; nobody else uses the sockets. Data that is written
is sent from where it lies, so the client copies nothing; a reply is received into one buffer, again
and again. A block device is read and written by pread and pwrite, one request at a time.
The start is a gate. Takes no locks.
"""

import cython
from cython.cimports.coldmem.lab.gate import gate_wait, hist_bucket
from cython.cimports.coldmem.linux.atomic import iovec, now_ns, unlikely
from cython.cimports.coldmem.linux.direct import direct_discard, direct_read, direct_write
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.linux.stream import stream_receive, stream_send
from cython.cimports.coldmem.nbd.answer import put16, put32, put64
from cython.cimports.coldmem.nbd.serve import get32
from cython.cimports.libc.stdint import int32_t, int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memset

from coldmem.errors import UsageError
from coldmem.nbd import protocol

REQUEST_MAGIC = cython.declare(uint32_t, protocol.REQUEST_MAGIC)
REPLY_MAGIC = cython.declare(uint32_t, protocol.SIMPLE_REPLY_MAGIC)
READ = cython.declare(uint32_t, protocol.CMD_READ)
WRITE = cython.declare(uint32_t, protocol.CMD_WRITE)
TRIM = cython.declare(uint32_t, protocol.CMD_TRIM)
ENDED = cython.declare(int32_t, -1)
END_BYTES = cython.declare(uint32_t, 64)  # compared while running


def same_bytes(a, got, offset):
    n: uint32_t = a.request_bytes
    want: ConstP = a.content + offset
    if a.compare_all:
        return memcmp(got, want, n) == 0
    return memcmp(got, want, END_BYTES) == 0 and (
        memcmp(got + n - END_BYTES, want + n - END_BYTES, END_BYTES) == 0
    )


def request_send(a, c, offset):
    head: cython.uchar[28]
    parts: iovec[2]
    slot: uint32_t
    c.free_count -= 1
    slot = c.free[c.free_count]
    c.offset[slot] = offset
    put32(head, REQUEST_MAGIC)
    put16(head + 4, 0)
    put16(head + 6, cython.cast(uint16_t, a.command))
    put64(head + 8, slot)
    put64(head + 16, offset)
    put32(head + 24, a.request_bytes)
    parts[0].iov_base = head
    parts[0].iov_len = HEAD_BYTES
    parts[1].iov_base = cython.cast(cython.p_void, a.content + offset)
    parts[1].iov_len = a.request_bytes
    c.sent_ns[slot] = now_ns()
    return cython.cast(int32_t, stream_send(c.fd, parts, 2 if a.command == WRITE else 1))


def replies_receive(a, c, sent):
    """At least one reply: one at most when it brings data, else what is there."""
    size: uint32_t = REPLY_BYTES + (a.request_bytes if a.command == READ else 0)
    # The data begins at a page, as it would in a program that gives the kernel its own buffer.
    base: U8P = c.buffer + ROOM_BYTES - REPLY_BYTES
    most: uint64_t = size
    have: uint64_t = 0
    at: uint64_t
    slot: uint64_t
    got: int64_t
    if a.command != READ:
        most = size * (sent - c.done)
    while have < REPLY_BYTES or have % size != 0:
        got = stream_receive(c.fd, base + have, most - have, True)
        if got <= 0:
            return ENDED
        have += cython.cast(uint64_t, got)
        if have >= REPLY_BYTES:
            if get32(base) != REPLY_MAGIC:
                return ENDED
            if get32(base + 4) != 0:
                return cython.cast(int32_t, get32(base + 4))
    at = 0
    while at < have:
        if get32(base + at) != REPLY_MAGIC:
            return ENDED
        if get32(base + at + 4) != 0:
            return cython.cast(int32_t, get32(base + at + 4))
        slot = base[at + 15]
        if slot >= a.depth:
            return ENDED
        c.by_time[hist_bucket(now_ns() - c.sent_ns[slot])] += 1
        if a.command == READ and not same_bytes(a, base + at + REPLY_BYTES, c.offset[slot]):
            c.bad += 1
        c.free[c.free_count] = cython.cast(uint32_t, slot)
        c.free_count += 1
        c.done += 1
        at += size
    return 0


def socket_loop(a, c):
    sent: uint64_t = 0
    i: uint32_t
    c.free_count = a.depth
    for i in range(a.depth):
        c.free[i] = i
    while c.done < c.count:
        while c.free_count > 0 and sent < c.count:
            c.error = request_send(a, c, a.order[c.first + sent])
            if unlikely(c.error != 0):
                return
            sent += 1
        c.error = replies_receive(a, c, sent)
        if unlikely(c.error != 0):
            return


def device_loop(a, c):
    to: U8P = c.buffer + ROOM_BYTES
    offset: uint64_t
    t: uint64_t
    while c.done < c.count:
        offset = a.order[c.first + c.done]
        t = now_ns()
        if a.command == READ:
            c.error = direct_read(c.fd, to, a.request_bytes, offset)
        elif a.command == WRITE:
            c.error = direct_write(c.fd, a.content + offset, a.request_bytes, offset)
        else:
            c.error = direct_discard(c.fd, a.request_bytes, offset)
        if unlikely(c.error != 0):
            return
        c.by_time[hist_bucket(now_ns() - t)] += 1
        if a.command == READ and not same_bytes(a, to, offset):
            c.bad += 1
        c.done += 1


# no_gc_clear: __dealloc__ frees buffers that point into nothing of Python's, whatever goes first.
@cython.no_gc_clear
@cython.cclass
class NbdWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(NbdWorkC))

    def __init__(self, fds, socket, command, request_bytes, depth, content, order, gate,
                 compare_all=False):
        # content: the whole device, in bytes; order: offsets, which the clients share out in turn
        if command not in (protocol.CMD_READ, protocol.CMD_WRITE, protocol.CMD_TRIM):
            raise UsageError("only reads, writes and trims can be measured")
        if not 1 <= depth <= DEPTH_MAX:
            raise UsageError(f"{depth} requests under way: choose 1 to {DEPTH_MAX}")
        if request_bytes < 4096 or not fds or len(order) < len(fds):
            raise UsageError("a request has 4096 bytes or more, and each client needs one")
        if self.c.client != cython.NULL:
            raise UsageError("an NbdWork cannot be initialised twice")
        if int(max(order)) + request_bytes > len(content):
            raise UsageError("the device ends before the last request does")
        here: cython.const[cython.uchar][::1] = content
        offsets: cython.const[cython.ulong][::1] = order
        i: uint32_t
        self.keep = (content, order)
        self.gate = gate
        self.c.gate = cython.address(self.gate.c)
        self.c.socket = socket
        self.c.compare_all = compare_all
        self.c.command = command
        self.c.request_bytes = request_bytes
        self.c.depth = depth
        self.c.content = cython.address(here[0])
        self.c.order = cython.cast(U64P, cython.cast(cython.p_void, cython.address(offsets[0])))
        self.c.clients = len(fds)
        self.c.client = cython.cast(NbdClientP, calloc(self.c.clients, cython.sizeof(NbdClient)))
        if self.c.client == cython.NULL:
            raise MemoryError("no memory for the clients")
        for i in range(self.c.clients):
            self.c.client[i].fd = fds[i]
            self.c.client[i].first = len(order) * i // len(fds)
            self.c.client[i].count = len(order) * (i + 1) // len(fds) - self.c.client[i].first
            self.c.client[i].buffer = cython.cast(U8P, memory_reserve(ROOM_BYTES + request_bytes))
            if self.c.client[i].buffer == cython.NULL:
                raise MemoryError("no memory for the buffers of a client")
            # Touched beforehand, so that no page fault is timed.
            memset(self.c.client[i].buffer, 1, ROOM_BYTES + request_bytes)

    def __dealloc__(self):
        i: uint32_t
        if self.c.client != cython.NULL:
            for i in range(self.c.clients):
                if self.c.client[i].buffer != cython.NULL:
                    memory_release(self.c.client[i].buffer, ROOM_BYTES + self.c.request_bytes)
        free(self.c.client)

    def run(self, client):
        """Wait at the gate, then make this client's part of the requests."""
        number: uint32_t = client
        c: NbdClientP
        if number >= self.c.clients:
            raise UsageError(f"client {client} of {self.c.clients}")
        c = cython.address(self.c.client[number])
        with cython.nogil:
            gate_wait(self.c.gate)
            if self.c.socket:
                socket_loop(cython.address(self.c), c)
            else:
                device_loop(cython.address(self.c), c)
            c.end_ns = now_ns()

    def totals(self):
        """Over all clients, once they have ended; `error` is that of the first that failed."""
        i: uint32_t
        done = bad = error = end_ns = 0
        for i in range(self.c.clients):
            done += self.c.client[i].done
            bad += self.c.client[i].bad
            error = error or self.c.client[i].error
            end_ns = max(end_ns, self.c.client[i].end_ns)
        return {"requests": done, "bad_reads": bad, "error": error, "end_ns": end_ns}

    def times(self):
        """Histogram of the requests' times over all clients, one count per bucket."""
        counts = [0] * HIST_BUCKETS
        i: uint32_t
        b: cython.int
        for i in range(self.c.clients):
            for b in range(HIST_BUCKETS):
                counts[b] += self.c.client[i].by_time[b]
        return counts
