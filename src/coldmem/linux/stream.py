"""Connected sockets: receive and send whole buffers.

Guarantees: interrupted and short transfers are continued; a peer that went away is an error of the
call and no signal. No policy, no locks.
"""

import cython
from cython.cimports.coldmem.linux.message import msghdr
from cython.cimports.libc.errno import EINTR
from cython.cimports.libc.errno import errno as c_errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset


def stream_receive(fd, to, n, wait):
    got: int64_t
    while True:
        got = recv(fd, to, n, 0 if wait else MSG_DONTWAIT)
        if got >= 0:
            return got
        if c_errno != EINTR:
            return -c_errno


def stream_receive_all(fd, to, n):
    at: CharP = cython.cast(CharP, to)
    got: int64_t
    while n > 0:
        got = stream_receive(fd, at, n, True)
        if got <= 0:
            return False
        at += got
        n -= cython.cast(uint64_t, got)
    return True


def stream_send(fd, parts, count):
    message: msghdr
    sent: int64_t
    first: uint32_t = 0
    memset(cython.address(message), 0, cython.sizeof(msghdr))
    while True:
        while first < count and parts[first].iov_len == 0:
            first += 1
        if first == count:
            return 0
        message.msg_iov = parts + first
        message.msg_iovlen = count - first
        sent = sendmsg(fd, cython.address(message), MSG_NOSIGNAL)
        if sent < 0:
            if c_errno == EINTR:
                continue
            return -c_errno
        while first < count and cython.cast(uint64_t, sent) >= parts[first].iov_len:
            sent -= parts[first].iov_len
            first += 1
        if sent > 0:
            parts[first].iov_base = cython.cast(CharP, parts[first].iov_base) + sent
            parts[first].iov_len -= cython.cast(uint64_t, sent)


def stream_end(fd, both):
    shutdown(fd, SHUT_RDWR if both else SHUT_RD)
