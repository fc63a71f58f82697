"""The pool as a network block device."""

from coldmem.nbd.server import Server
from coldmem.nbd.trace import Trace

__all__ = ["Server", "Trace"]
