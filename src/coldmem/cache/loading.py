"""`Loading`: what a cache does when a value has to be made first.

Guarantees: of many callers that miss a key at once, one makes the value.
Locks: those of `Flight`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, ParamSpec, TypeVar, cast, overload

from coldmem.cache.arguments import check_callable, check_ttl
from coldmem.cache.core import MISSING
from coldmem.cache.flight import Flight
from coldmem.cache.memoize import Memoized, memoize

P = ParamSpec("P")
V = TypeVar("V")


class Loading:
    """A part of `coldmem.Cache`."""

    _flight: Flight

    def get(self, key: Any, default: Any = None) -> Any:
        """See `Cache`."""
        raise NotImplementedError

    def set(self, key: Any, value: Any, *, ttl: float | None = None) -> None:
        """See `Cache`."""
        raise NotImplementedError

    def get_or_load(self, key: Any, loader: Callable[[], V], *, ttl: float | None = None) -> V:
        """The value of `key`; if there is none, what `loader` returns, which is stored.

        However many threads ask at once, one of them calls its loader, and the others get its result.

        Parameters
        ----------
        key : hashable
        loader : callable
            Called without arguments.
        ttl : float, optional
            Seconds that the value lives.

        Raises
        ------
        Exception
            What the loader raised; nothing is stored then.
        """
        check_callable("the loader", loader)
        check_ttl(ttl)
        value = self.get(key, MISSING)
        if value is not MISSING:
            return cast(V, value)

        def load_once() -> V:
            found = self.get(key, MISSING)  # somebody may have been quicker
            if found is not MISSING:
                return cast(V, found)
            made = loader()
            self.set(key, made, ttl=ttl)
            return made

        return self._flight.do(key, load_once)

    async def get_or_load_async(self, key: Any, loader: Callable[[], Awaitable[V]], *,
                                ttl: float | None = None) -> V:
        """`get_or_load` for a loader that is a coroutine function.

        Parameters
        ----------
        key : hashable
        loader : coroutine function
            Called without arguments.
        ttl : float, optional
            Seconds that the value lives.
        """
        check_callable("the loader", loader)
        check_ttl(ttl)
        value = self.get(key, MISSING)
        if value is not MISSING:
            return cast(V, value)

        async def load_once() -> V:
            found = self.get(key, MISSING)
            if found is not MISSING:
                return cast(V, found)
            made = await loader()
            self.set(key, made, ttl=ttl)
            return made

        return await self._flight.do_async(key, load_once)

    @overload
    def memoize(self, function: Callable[P, V], /) -> Memoized[P, V]: ...
    @overload
    def memoize(self, /, *, ttl: float | None = None, typed: bool = False,
                key: Callable[..., Hashable] | None = None,
                ) -> Callable[[Callable[P, V]], Memoized[P, V]]: ...

    def memoize(self, function: Any = None, /, *, ttl: float | None = None, typed: bool = False,
                key: Callable[..., Hashable] | None = None) -> Any:
        """A decorator that keeps the results of a function, or of an ``async def`` function, here.

        With or without parentheses: ``@cache.memoize`` is ``@cache.memoize()``.

        Parameters
        ----------
        function : callable, optional
            What is decorated, without parentheses.
        ttl : float, optional
            Seconds that a result lives.
        typed : bool, default False
            Arguments of different types are different, as 1 and 1.0.
        key : callable, optional
            Makes a key of the arguments.
        """
        decorate: Any = memoize(cast(Any, self), ttl=ttl, typed=typed, key=key)
        return decorate if function is None else decorate(function)
