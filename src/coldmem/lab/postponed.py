"""Signals that end a program, postponed while settings of the machine are changed.

Owns the handlers of SIGINT, SIGTERM and SIGHUP inside ``with``, and puts the former ones back.
Guarantees: outside `PostponedSignals.open` none of them interrupts anything; inside it the first one
raises, and from that moment they are postponed again, so that nothing interrupts the cleaning up.
In a thread other than the main one it does nothing: Python delivers no signals there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PostponedSignals:
    """See the module."""

    def __init__(self) -> None:
        self._waiting = 0
        self._postpone = True
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> PostponedSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._waiting and kind is None:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._waiting = number
        if not self._postpone:
            self._postpone = True
            self._raise()

    def _raise(self) -> None:
        number, self._waiting = self._waiting, 0
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside ``with``, a signal raises."""
        self._postpone = False
        try:
            if self._waiting:
                self._postpone = True
                self._raise()
            yield
        finally:
            self._postpone = True
