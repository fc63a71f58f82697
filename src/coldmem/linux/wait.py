"""Waiting for file descriptors. Owns nothing, takes no locks."""

from __future__ import annotations

import select
from collections.abc import Iterable


def wait_readable(descriptors: Iterable[int], milliseconds: int) -> list[int]:
    """Those that can be read, or whose other end is closed; none when the time is over."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in waiting.poll(milliseconds)]
