"""The decorator behind `Cache.memoize`: results of a function, kept under the arguments of its calls.

Owns: for asynchronous functions a `Flight`; the results are the cache's.
Guarantees: of calls with equal arguments at the same time, one runs the function (per process). A
function that raises leaves nothing. None is a result like any other.
Assumes: the function depends on its arguments alone.
Locks: none of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from coldmem.cache.arguments import check_callable, check_flag, check_ttl
from coldmem.cache.flight import Flight
from coldmem.errors import UnhashableKeyError, UsageError

P = ParamSpec("P")
R = TypeVar("R")
_MISSING: Any = object()


class Storage(Protocol):
    """What is used of a Cache."""

    def get(self, key: Hashable, default: Any = None, /) -> Any: ...

    def set(self, key: Hashable, value: Any, /, *, ttl: float | None = None) -> None: ...

    def get_or_load(
        self, key: Hashable, loader: Callable[[], Any], /, *, ttl: float | None = None
    ) -> Any: ...

    def __delitem__(self, key: Hashable, /) -> None: ...


class Memoized(Protocol, Generic[P, R]):
    """A function with a cache before it.

    In a class it is a method like any other; its own methods take the object as first argument there:
    ``Class.method.invalidate(thing, 1)``.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Memoized[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Callable[..., R]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """The key that the result of this call has in the cache."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Drop the result of this call; True if there was one.

        A call that is under way still stores what it returns.
        """


def memoize(
    cache: Storage, *, ttl: float | None = None, typed: bool = False,
    key: Callable[..., Hashable] | None = None,
) -> Callable[[Callable[P, R]], Memoized[P, R]]:
    """A decorator that keeps the results of a function, or of an ``async def`` function, in `cache`.

    A result is kept under the function's module and qualified name, its arguments as they were
    written, and its keyword arguments in order of name: ``f(1)`` and ``f(x=1)`` are two entries. Two
    functions of the same name share entries, and what a function inside a function takes from around
    it is no part of the key: give `key` there. In a method the object is an argument: it must be
    hashable and is kept alive by its entries, unless `key` leaves it out.

    Parameters
    ----------
    cache : Cache
        Where the results go. They come back as the cache gives them: bytearrays as bytes, anything
        else as a copy of its own; those who waited for one call get the same object.
    ttl : float, optional
        Seconds that a result is good for; by default as long as the cache says.
    typed : bool
        Whether ``f(1)``, ``f(1.0)`` and ``f(True)`` are different calls.
    key : callable, optional
        Takes the arguments of a call and returns the key of its result, the whole of it: so put a name
        into it. By default as above.

    Returns
    -------
    decorator
        What it makes has `cache_key` and `invalidate`, which take the arguments of a call, and
        ``__wrapped__``, the function itself.

    Raises
    ------
    UsageError
        `ttl`, `typed` or `key` is not what it must be. On decorating: the function has no name of its
        own (a lambda, a `functools.partial`) and there is no `key`, or it cannot be kept (a generator, a
        bound method, a staticmethod object).
    UnhashableKeyError
        On calling: an argument cannot be hashed.
    """

    check_ttl(ttl)
    check_flag("typed", typed)
    if key is not None:
        check_callable("key=, which gets the arguments,", key)

    def decorate(function: Callable[P, R]) -> Memoized[P, R]:
        _check_function(function, key)
        if key is None:
            key_of = functools.partial(_key_of, function, _name_of(function), typed)
        else:
            key_of = functools.partial(_checked_key, function, key)
        if inspect.iscoroutinefunction(function):
            wrapper = _wrap_async(cache, function, key_of, ttl)
        else:
            wrapper = _wrap(cache, function, key_of, ttl)

        def cache_key(*args: P.args, **kwargs: P.kwargs) -> Hashable:
            return key_of(args, kwargs)

        def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
            try:
                del cache[key_of(args, kwargs)]
            except KeyError:
                return False
            return True

        made = cast(Any, functools.update_wrapper(wrapper, function))
        made.cache_key = cache_key
        made.invalidate = invalidate
        return cast("Memoized[P, R]", made)

    return decorate


def _wrap(
    cache: Storage, function: Callable[..., Any], key_of: Callable[..., Hashable], ttl: float | None
) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return cache.get_or_load(
            key_of(args, kwargs), lambda: function(*args, **kwargs), ttl=ttl)

    return wrapper


def _wrap_async(
    cache: Storage, function: Callable[..., Any], key_of: Callable[..., Hashable], ttl: float | None
) -> Callable[..., Any]:
    flight = Flight()

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = key_of(args, kwargs)
        value = cache.get(key, _MISSING)
        if value is not _MISSING:
            return value

        async def load() -> Any:
            # Another call may have ended between our look into the cache and our take-off.
            value = cache.get(key, _MISSING)
            if value is _MISSING:
                value = await function(*args, **kwargs)
                cache.set(key, value, ttl=ttl)
            return value

        return await flight.do_async(key, load)

    return wrapper


# -- keys ------------------------------------------------------------------------------------------
def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _key_of(
    function: Callable[..., Any], name: str, typed: bool, args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Hashable:
    named = tuple(sorted(kwargs.items())) if kwargs else ()
    key: tuple[Any, ...] = (name, args, named)
    if typed:
        key += (tuple(map(type, args)), tuple(type(value) for _, value in named))
    try:
        hash(key)
    except TypeError as error:
        raise _unhashable(function, name, args, kwargs) from error
    return key


def _checked_key(
    function: Callable[..., Any], key: Callable[..., Hashable], args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Hashable:
    made = key(*args, **kwargs)
    try:
        hash(made)
    except TypeError as error:
        raise UnhashableKeyError(
            f"key= of {function!r} returned a {type(made).__qualname__} that cannot be hashed: return "
            "a str, a number, or a tuple of such"
        ) from error
    return made


def _unhashable(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> UnhashableKeyError:
    try:
        names = [p.name for p in inspect.signature(function).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        names = []
    labels = [f"argument {name!r}" for name in names]
    labels += [f"argument {n}" for n in range(len(names) + 1, len(args) + 1)]
    named = dict(zip(labels, args, strict=False))
    named |= {f"argument {word!r}": value for word, value in kwargs.items()}
    for what, value in named.items():
        try:
            hash(value)
        except TypeError:
            return UnhashableKeyError(
                f"{what} of {name} is a {type(value).__qualname__} that cannot be hashed: pass a tuple "
                "or a frozenset instead, or give memoize a key= that makes a key of the arguments"
            )
    return UnhashableKeyError(f"the arguments of {name} cannot be hashed: give memoize a key=")


def _check_function(function: Any, key: object) -> None:
    if isinstance(function, staticmethod | classmethod):
        raise UsageError("memoize goes below @staticmethod or @classmethod, next to the function")
    if not callable(function):
        raise UsageError(f"memoize decorates a function, not {function!r}: options have names, as in"
                         " memoize(ttl=60)")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{function.__qualname__} is a generator: what it yields cannot be kept. Return a list"
        )
    if key is not None:
        return
    if inspect.ismethod(function):
        raise UsageError(
            f"{function.__qualname__} is bound to an object, which would be no part of the key: "
            "decorate it in its class, or give memoize a key="
        )
    if getattr(function, "__qualname__", "<lambda>").endswith("<lambda>"):
        raise UsageError(
            f"{function!r} has no name of its own to keep results under: use def, or give memoize a key="
        )
