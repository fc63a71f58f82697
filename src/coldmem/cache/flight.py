"""Single flight: of all callers who want one key at once, one loads it and the others wait for that.

Owns: a call for each key that is being loaded, and nothing for any other key.
Guarantees: no two loads of one key run at once. All who waited get the value of the load, or its
exception. A load that is stopped from outside (cancelled, interrupted) says nothing about the key:
one of those who waited loads it instead. A wait that could never end raises UsageError: a loader
that wants its own key, loaders that wait for each other's keys, a wait that would block the event
loop which the load runs on.
Assumes: keys are hashable. What was loaded before is the caller's to look up, and to look up again
inside the load: a flight that has just landed is forgotten.
Locks: `_lock`, for a few steps at a time; never held during a load or a wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple, Self, TypeVar

from coldmem.errors import UsageError

V = TypeVar("V")


class _Caller(NamedTuple):
    thread: int
    task: asyncio.Task[Any] | None


class _Outcome(NamedTuple):
    value: Any
    error: Exception | None


class _Call:
    """One load. `landed` is given an outcome when it ends, None if it was stopped from outside."""

    __slots__ = ("caller", "flying", "landed", "sync")

    def __init__(self, caller: _Caller, sync: bool) -> None:
        self.caller = caller
        self.sync = sync
        self.flying = True  # _lock
        self.landed: Future[_Outcome | None] = Future()
        # Running: somebody who waits on an event loop and is cancelled must not cancel it for all.
        self.landed.set_running_or_notify_cancel()


class _Turn:
    """One try to be the caller who loads: in it `other` is None, or the call of who does."""

    __slots__ = ("_flight", "_key", "_outcome", "call", "other")

    def __init__(self, flight: Flight, key: Hashable, sync: bool) -> None:
        self._flight = flight
        self._key = key
        self._outcome: _Outcome | None = None
        self.call = _Call(_Caller(threading.get_ident(), _task()), sync)

    def landed(self, value: V) -> V:
        """The load has given `value`, which it returns."""
        self._outcome = _Outcome(value, None)
        return value

    def __enter__(self) -> Self:
        self.other = self._flight._join(self._key, self.call)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            self._outcome = _Outcome(None, error)
        if self.other is None:
            self._flight._land(self._key, self.call, self._outcome)


class Flight:
    """Loads in progress, by key; for threads, for coroutines of any event loop, and for both at once.

    Examples
    --------
    >>> flight = Flight()
    >>> flight.do("key", lambda: 6 * 7)
    42
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Hashable, _Call] = {}  # _lock; none of them has landed
        self._waiting: dict[_Caller, _Call] = {}  # _lock; who waits for what

    def __len__(self) -> int:
        """Keys that are being loaded now."""
        return len(self._calls)

    def do(self, key: Hashable, load: Callable[[], V]) -> V:
        """The value of `key`: what `load()` returns, or another caller's, if one is loading it.

        Raises
        ------
        UsageError
            The wait would never end.
        Exception
            What the load raised.
        """
        while True:
            with _Turn(self, key, sync=True) as turn:
                if turn.other is None:
                    return turn.landed(load())
            try:
                theirs = turn.other.landed.result()
            finally:
                self._leave(turn.call.caller)
            if theirs is not None:
                found: V = _unpack(theirs)
                return found

    async def do_async(self, key: Hashable, load: Callable[[], Awaitable[V]]) -> V:
        """`Flight.do` for coroutines: awaits `load()`, or what another caller loads."""
        while True:
            with _Turn(self, key, sync=False) as turn:
                if turn.other is None:
                    return turn.landed(await load())
            try:
                theirs = await asyncio.wrap_future(turn.other.landed)
            finally:
                self._leave(turn.call.caller)
            if theirs is not None:
                found: V = _unpack(theirs)
                return found

    def _join(self, key: Hashable, call: _Call) -> _Call | None:
        """Make `call` that of `key`; or note that its caller waits for the one that is there."""
        with self._lock:
            other = self._calls.setdefault(key, call)
            if other is call:
                return None
            self._refuse_deadlock(key, call, other)
            self._waiting[call.caller] = other
            return other

    def _land(self, key: Hashable, call: _Call, outcome: _Outcome | None) -> None:
        """End `call`, which is that of `key`."""
        with self._lock:
            del self._calls[key]
            call.flying = False
        call.landed.set_result(outcome)

    def _leave(self, caller: _Caller) -> None:
        with self._lock:
            self._waiting.pop(caller, None)

    def _refuse_deadlock(self, key: Hashable, call: _Call, other: _Call) -> None:
        """`_lock` is held."""
        me = call.caller
        if other.caller.thread == me.thread and (
            call.sync or other.sync or other.caller.task is me.task
        ):
            if other.caller.task is me.task:
                raise UsageError(
                    f"the loader of key {key!r} asks for that key itself, which would wait for ever: "
                    "let it compute the value, or ask for another key"
                )
            raise UsageError(
                f"key {key!r} is being loaded by another task of this thread, which cannot go on while "
                "this call blocks it: await the asynchronous form instead"
            )
        step: _Call | None = other
        while step is not None and step.flying:
            if step.caller == me:
                raise UsageError(
                    f"the loaders wait for each other: key {key!r} is being loaded by one that waits "
                    "for a key which this one loads. Let each loader ask for keys in the same order"
                )
            step = self._waiting.get(step.caller)


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def _unpack(outcome: _Outcome) -> Any:
    if outcome.error is None:
        return outcome.value
    try:
        raise outcome.error
    finally:
        del outcome  # its traceback refers to this frame
