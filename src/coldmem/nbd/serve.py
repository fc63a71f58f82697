"""The transmission phase: requests are read, done and answered, without the GIL.

Owns: of a connection the receive buffer, the baton and the send lock; of each serving thread its
buffers, made once.
Guarantees: each request gets one answer, whatever is wrong with it, unless the stream itself can no
longer be understood (a wrong magic number, an absurd length, an end in the middle): then nothing more
is read, what was read is answered, and the threads leave. What a client does touches no other.
Assumes: the handshake is over; `Connection.run` is called by each serving thread once.

Who has the baton reads one request with its payload. Then, when more requests are there already, or
were a short while ago, the baton is passed on first and another thread reads while this one works.
Else it is kept, so that a client with one request at a time costs no wake-up. Whoever kept it looks
once more before it answers: whoever sends before the answer has several requests under way, and from
then on the baton is passed on. So one slow request delays those behind it at most once.

Locks: see serve.pxd.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add,
    a32_load,
    a32_store,
    a64_fetch_add_rlx,
    a64_load_rlx,
    futex_wait,
    futex_wake,
    likely,
    unlikely,
)
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import memory_forget, memory_release, memory_reserve
from cython.cimports.coldmem.linux.stream import (
    stream_end,
    stream_receive,
    stream_receive_all,
    stream_send,
)
from cython.cimports.coldmem.nbd.answer import (
    SPANS_MAX,
    STATUS_SPANS_MAX,
    U8P,
    RequestP,
    Session,
    SessionP,
    reply_data,
    reply_done,
    reply_error,
    reply_status,
)
from cython.cimports.coldmem.nbd.block import (
    N_COMMANDS,
    N_CONNECTIONS,
    N_ERRORS,
    DeviceP,
    Spans,
    SpansP,
    device_read,
    device_status,
    device_trim,
    device_write,
    device_zero,
    worker_destroy,
    worker_init,
)
from cython.cimports.libc.stdint import int32_t, int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memmove

from coldmem.errors import UsageError
from coldmem.nbd import protocol

REQUEST_MAGIC = cython.declare(uint32_t, protocol.REQUEST_MAGIC)

READ = cython.declare(uint16_t, protocol.CMD_READ)
WRITE = cython.declare(uint16_t, protocol.CMD_WRITE)
DISC = cython.declare(uint16_t, protocol.CMD_DISC)
FLUSH = cython.declare(uint16_t, protocol.CMD_FLUSH)
TRIM = cython.declare(uint16_t, protocol.CMD_TRIM)
CACHE = cython.declare(uint16_t, protocol.CMD_CACHE)
WRITE_ZEROES = cython.declare(uint16_t, protocol.CMD_WRITE_ZEROES)
BLOCK_STATUS = cython.declare(uint16_t, protocol.CMD_BLOCK_STATUS)

FUA = cython.declare(uint16_t, protocol.CMD_FLAG_FUA)
NO_HOLE = cython.declare(uint16_t, protocol.CMD_FLAG_NO_HOLE)
DF = cython.declare(uint16_t, protocol.CMD_FLAG_DF)
REQ_ONE = cython.declare(uint16_t, protocol.CMD_FLAG_REQ_ONE)
FAST_ZERO = cython.declare(uint16_t, protocol.CMD_FLAG_FAST_ZERO)


EPERM = cython.declare(int32_t, protocol.EPERM)
EINVAL = cython.declare(int32_t, protocol.EINVAL)
ENOSPC = cython.declare(int32_t, protocol.ENOSPC)

PAYLOAD_MAX = cython.declare(uint32_t, protocol.PAYLOAD_BYTES_MAX)
DRAIN_MAX = cython.declare(uint32_t, protocol.DRAIN_BYTES_MAX)
KEPT_BYTES = cython.declare(uint32_t, 4 << 20)  # of a buffer; what is touched above goes back
LONG_BYTES = cython.declare(uint32_t, 256 << 10)  # a request of so many is worth a look first


def session_new(k):
    s: SessionP = cython.cast(SessionP, calloc(1, cython.sizeof(Session)))
    if s == cython.NULL:
        return cython.NULL
    s.structured = k.structured
    s.buffer = cython.cast(U8P, memory_reserve(PAYLOAD_MAX))
    if s.buffer == cython.NULL or worker_init(cython.address(s.worker), k.device) != 0:
        session_free(s)
        return cython.NULL
    return s


def session_free(s):
    worker_destroy(cython.address(s.worker))
    memory_release(s.buffer, PAYLOAD_MAX)
    free(s)


# -- the baton ------------------------------------------------------------------------------------
def baton_take(k):
    """False: the connection has ended."""
    got: cython.bint = False
    a32_fetch_add(cython.address(k.waiting), 1)
    while not a32_load(cython.address(k.ended)):
        if a32_cas(cython.address(k.baton), 0, 1):
            got = True
            break
        futex_wait(cython.address(k.baton), 1, -1)
    a32_fetch_add(cython.address(k.waiting), -1)
    return got


def baton_give(k):
    a32_store(cython.address(k.baton), 0)
    if a32_load(cython.address(k.waiting)) > 0:
        futex_wake(cython.address(k.baton), 1)


def link_end(k):
    """No more requests are taken. By who has the baton, which goes with it."""
    a32_store(cython.address(k.ended), 1)
    a32_store(cython.address(k.baton), 0)
    futex_wake(cython.address(k.baton), 0x7FFFFFFF)


# -- receiving, with the baton --------------------------------------------------------------------
def more_has_come(k):
    got: int64_t
    if k.in_at < k.in_end:
        return True
    got = stream_receive(k.fd, k.inbuf, INBUF_BYTES, False)
    if got <= 0:
        return False  # the next receive that waits will see an end or an error again
    k.in_at = 0
    k.in_end = cython.cast(uint32_t, got)
    return True


def fill_header(k):
    got: int64_t
    if k.in_at > 0:
        memmove(k.inbuf, k.inbuf + k.in_at, k.in_end - k.in_at)
        k.in_end -= k.in_at
        k.in_at = 0
    while k.in_end < REQUEST_BYTES:
        got = stream_receive(k.fd, k.inbuf + k.in_end, INBUF_BYTES - k.in_end, True)
        if got <= 0:
            return False
        k.in_end += cython.cast(uint32_t, got)
    return True


def receive_payload(k, to, n):
    here: uint32_t = min(n, k.in_end - k.in_at)
    memcpy(to, k.inbuf + k.in_at, here)
    k.in_at += here
    return here == n or stream_receive_all(k.fd, to + here, n - here)


def drain(k, s, n):
    part: uint32_t
    while n > 0:
        part = min(n, KEPT_BYTES)
        if not receive_payload(k, s.buffer, part):
            return False
        n -= part
    return True


def request_read(k, s):
    """The next request, with its payload; False: there will be none."""
    r: RequestP = cython.address(s.request)
    p: TextP
    if k.in_end - k.in_at < REQUEST_BYTES and not fill_header(k):
        return False
    p = k.inbuf + k.in_at
    if get32(p) != REQUEST_MAGIC:
        a64_fetch_add_rlx(cython.address(k.device.counts[N_ERRORS]), 1)
        return False
    r.flags = get16(p + 4)
    r.command = get16(p + 6)
    memcpy(cython.address(r.cookie), p + 8, 8)
    r.offset = get64(p + 16)
    r.length = get32(p + 24)
    k.in_at += REQUEST_BYTES
    if r.command == DISC:
        a64_fetch_add_rlx(cython.address(k.device.counts[N_COMMANDS + DISC]), 1)
        return False
    r.error = request_fault(k, r)
    if r.command == WRITE:
        if likely(r.length <= PAYLOAD_MAX):
            return receive_payload(k, s.buffer, r.length)
        if r.length > DRAIN_MAX:
            a64_fetch_add_rlx(cython.address(k.device.counts[N_ERRORS]), 1)
            return False
        return drain(k, s, r.length)
    return True


def request_fault(k, r):
    """What is wrong with a request, as an errno; 0: nothing."""
    d: DeviceP = k.device
    allowed: uint16_t = FUA
    changes: cython.bint = False
    outside: cython.bint
    if r.command > BLOCK_STATUS:
        return EINVAL
    if r.command == READ:
        if k.structured:
            allowed |= DF
    elif r.command == WRITE or r.command == TRIM:
        changes = True
    elif r.command == WRITE_ZEROES:
        changes = True
        allowed |= NO_HOLE | FAST_ZERO
    elif r.command == BLOCK_STATUS:
        allowed |= REQ_ONE
    if r.flags & ~allowed:
        return EINVAL
    if r.command == FLUSH:
        return EINVAL if r.offset != 0 or r.length != 0 else 0
    if changes and k.read_only:
        return EPERM
    if r.length == 0 or (r.command <= WRITE and r.length > PAYLOAD_MAX):
        return EINVAL
    if r.command == BLOCK_STATUS and not k.allocation:
        return EINVAL
    outside = r.offset > d.size_bytes or r.length > d.size_bytes - r.offset
    if outside:
        return ENOSPC if r.command == WRITE or r.command == WRITE_ZEROES else EINVAL
    return 0


# -- doing and answering --------------------------------------------------------------------------
def request_do(k, s):
    """Do what is asked, and prepare the answer."""
    r: RequestP = cython.address(s.request)
    spans: Spans
    wanted: SpansP = cython.NULL
    error: int32_t = r.error
    bad: uint64_t = 0
    if unlikely(error != 0):
        reply_error(s, error, False, 0)
        return
    a64_fetch_add_rlx(cython.address(k.device.counts[N_COMMANDS + r.command]), 1)
    spans.items = s.spans
    spans.count = 0
    spans.max = SPANS_MAX
    if r.command == READ:
        if k.structured and not r.flags & DF:
            wanted = cython.address(spans)
        error = device_read(
            cython.address(s.worker), r.offset, r.length, s.buffer, wanted, cython.address(bad)
        )
        if unlikely(error != 0):
            reply_error(s, error, True, bad)
            return
        if wanted == cython.NULL:
            spans.count = 1
            s.spans[0].start = 0
            s.spans[0].length = r.length
            s.spans[0].state = 0
        reply_data(s, cython.address(spans))
        return
    if r.command == BLOCK_STATUS:
        spans.max = 1 if r.flags & REQ_ONE else STATUS_SPANS_MAX
        error = device_status(cython.address(s.worker), r.offset, r.length, cython.address(spans))
        if error == 0:
            reply_status(s, cython.address(spans))
            return
    elif r.command == WRITE:
        error = device_write(cython.address(s.worker), r.offset, r.length, s.buffer)
    elif r.command == TRIM:
        error = device_trim(cython.address(s.worker), r.offset, r.length)
    elif r.command == WRITE_ZEROES:
        error = device_zero(
            cython.address(s.worker), r.offset, r.length, r.flags & NO_HOLE != 0
        )
    # FLUSH: what was answered is already where every connection sees it. CACHE: all of it is near.
    if error != 0:
        reply_error(s, error, False, 0)
    else:
        reply_done(s)


def may_take_long(k, r):
    return r.length >= LONG_BYTES or (
        k.device.zswap.swap != cython.NULL
        and a64_load_rlx(cython.address(k.device.zswap.swap.used_bytes)) != 0
    )


def reply(k, s):
    """Send the parts. When that fails, the client is gone: the receiving side will see it too."""
    failed: int64_t
    mutex_lock(cython.address(k.send_lock))
    failed = stream_send(k.fd, s.parts, s.segments)
    mutex_unlock(cython.address(k.send_lock))
    if failed != 0:
        stream_end(k.fd, True)


def serve_loop(k, s):
    leads: cython.bint
    others: int32_t
    while baton_take(k):
        leads = True
        while leads:
            if a32_load(cython.address(k.ended)) or not request_read(k, s):
                link_end(k)
                return
            others = a32_fetch_add(cython.address(k.inflight), 1)
            if k.in_at < k.in_end or others > 0 or (
                may_take_long(k, cython.address(s.request)) and more_has_come(k)
            ):
                k.eager = EAGER_REQUESTS
            if k.eager > 0:
                k.eager -= 1
                leads = False
                baton_give(k)
            request_do(k, s)
            if leads and more_has_come(k):
                k.eager = EAGER_REQUESTS
                leads = False
                baton_give(k)
            a32_fetch_add(cython.address(k.inflight), -1)
            reply(k, s)
            if s.request.length > KEPT_BYTES and s.request.command <= WRITE:
                memory_forget(s.buffer + KEPT_BYTES, PAYLOAD_MAX - KEPT_BYTES)


# -- as Python sees it ----------------------------------------------------------------------------
class Connection:
    """One connection after its handshake.

    Parameters
    ----------
    device : Device
    fd : int
        A connected, blocking socket, which the caller keeps open until every `run` has returned.
    structured, allocation : bool
        Structured replies, and the status "base:allocation", were agreed on.
    read_only : bool
        Refuse all changes.
    """

    def __init__(self, device, fd, structured, allocation, read_only):
        if self.c != cython.NULL:
            raise UsageError("a Connection cannot be initialised twice")
        self.device = device
        self.c = cython.cast(LinkP, calloc(1, cython.sizeof(Link)))
        if self.c == cython.NULL:
            raise MemoryError("no memory for a connection")
        self.c.device = cython.address(self.device.c)
        self.c.fd = fd
        self.c.structured = bool(structured)
        self.c.allocation = bool(allocation)
        self.c.read_only = bool(read_only)
        mutex_init(cython.address(self.c.send_lock), False)
        a64_fetch_add_rlx(cython.address(self.c.device.counts[N_CONNECTIONS]), 1)

    def __dealloc__(self):
        free(self.c)

    def run(self):
        """Serve until the connection ends; by each of its threads."""
        k: LinkP = self.c
        s: SessionP
        with cython.nogil:
            s = session_new(k)
            if s != cython.NULL:
                serve_loop(k, s)
                session_free(s)
        if s == cython.NULL:
            raise MemoryError("no memory for the buffers of a connection")

    def end(self, at_once=False):
        """Take no more requests; those under way are answered, unless `at_once`."""
        both: cython.bint = at_once
        with cython.nogil:
            a32_store(cython.address(self.c.ended), 1)
            stream_end(self.c.fd, both)
