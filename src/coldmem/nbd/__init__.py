"""The pool as a network block device."""

from coldmem.nbd.trace import Trace

__all__ = ["Trace"]
