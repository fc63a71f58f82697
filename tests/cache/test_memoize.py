"""The decorator: one call of the function for equal arguments, sync and async, by the key it says."""

import asyncio
import functools
import inspect
import threading
import time

import pytest
from cache_stand_in import StandIn

from coldmem import Cache
from coldmem.cache.memoize import memoize
from coldmem.errors import UnhashableKeyError, UsageError


@pytest.fixture
def cache():
    return StandIn()


class Counted:
    """Functions that count how often they really run."""

    def __init__(self, cache, **options):
        self.calls = 0

        @memoize(cache, **options)
        def function(*args, **kwargs):
            """What it does."""
            self.calls += 1
            return (args, kwargs)

        self.function = function


# -- what is the same call -------------------------------------------------------------------------
def test_a_second_call_does_not_run(cache):
    counted = Counted(cache)
    f = counted.function
    assert f(1, b=2) == ((1,), {"b": 2})
    assert f(1, b=2) == ((1,), {"b": 2})
    assert counted.calls == 1


@pytest.mark.parametrize(("first", "second", "same"), [
    (((1,), {}), ((1.0,), {}), True),
    (((), {"a": 1, "b": 2}), ((), {"b": 2, "a": 1}), True),
    (((), {}), ((None,), {}), False),
    (((1, 2), {}), (((1, 2),), {}), False),
    (((("a", 1),), {}), ((), {"a": 1}), False),
    ((("a", 1), {}), ((), {"a": 1}), False),
    (((1,), {"b": 2}), ((1, 2), {}), False),
    (((), {"a": 1, "b": 2}), ((), {"a": 2, "b": 1}), False),
    ((("1",), {}), ((1,), {}), False),
    (((b"1",), {}), (("1",), {}), False),
])
def test_what_is_the_same_call(cache, first, second, same):
    counted = Counted(cache)
    for args, kwargs in (first, second, first):
        counted.function(*args, **kwargs)
    assert counted.calls == (1 if same else 2)
    key, other = (counted.function.cache_key(*args, **kwargs) for args, kwargs in (first, second))
    assert (key == other) == same
    assert key in cache


@pytest.mark.parametrize(("first", "second", "calls"), [
    (((1,), {}), ((1.0,), {}), 2), (((1,), {}), ((True,), {}), 2), (((), {"a": 1}), ((), {"a": 1.0}), 2),
    (((1,), {}), ((1,), {}), 1), (((), {}), ((), {}), 1), ((("a",), {}), (("a",), {}), 1),
])
def test_typed(cache, first, second, calls):
    counted = Counted(cache, typed=True)
    for args, kwargs in (first, second, first):
        counted.function(*args, **kwargs)
    assert counted.calls == calls


def one(x):
    return ("one", x)


def two(x):
    return ("two", x)


def test_functions_do_not_share_results(cache):
    assert memoize(cache)(one)(1) == ("one", 1)
    assert memoize(cache)(two)(1) == ("two", 1)
    assert len(cache) == 2


def test_the_key_is_the_same_in_every_process(cache):
    """A persistent cache needs that: no id() and no hash() of a str in it."""
    assert memoize(cache)(one).cache_key(1, y=2) == (f"{__name__}.one", (1,), (("y", 2),))


def test_None_is_a_result(cache):
    calls = []
    f = memoize(cache)(functools.wraps(one)(lambda x: calls.append(x)))
    assert f(1) is None
    assert f(1) is None
    assert calls == [1]


def test_an_error_leaves_nothing(cache):
    @memoize(cache)
    def f(x):
        raise KeyError(x)

    for _ in range(2):
        with pytest.raises(KeyError, match="5"):
            f(5)
    assert len(cache) == 0


def test_ttl_reaches_the_cache(cache):
    f = memoize(cache, ttl=7)(one)
    f(1)
    g = memoize(cache)(two)
    g(1)
    assert cache.ttls == {f.cache_key(1): 7, g.cache_key(1): None}


def test_recursion(cache):
    @memoize(cache)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(60) == 1548008755920


def test_endless_recursion_is_an_error(cache):
    @memoize(cache)
    def f(x):
        return f(x)

    with pytest.raises(UsageError, match="asks for that key itself"):
        f(1)


# -- what the function still is --------------------------------------------------------------------
def test_it_looks_like_the_function(cache):
    f = Counted(cache).function
    assert f.__doc__ == "What it does."
    assert f.__name__ == "function"
    assert memoize(cache)(one).__wrapped__ is one
    assert inspect.signature(memoize(cache)(one)) == inspect.signature(one)
    f.__wrapped__(1)
    assert len(cache) == 0


def test_invalidate(cache):
    counted = Counted(cache)
    f = counted.function
    f(1)
    f(2)
    assert f.invalidate(1) is True
    assert f.invalidate(1) is False
    f(1)
    f(2)
    assert counted.calls == 3


class Shop:
    cache = StandIn()
    calls = 0

    def __init__(self, name):
        self.name = name

    @memoize(cache)
    def price(self, what):
        """Of a thing."""
        Shop.calls += 1
        return f"{self.name}: {what}"

    @memoize(cache, key=lambda self, what: ("Shop.stock", self.name, what))
    def stock(self, what):
        Shop.calls += 1
        return what

    @staticmethod
    @memoize(cache)
    def opens(day):
        Shop.calls += 1
        return day

    @classmethod
    @memoize(cache)
    def kind(cls, x):
        Shop.calls += 1
        return cls, x

    @memoize(cache)
    async def order(self, what):
        Shop.calls += 1
        return f"{self.name}: {what}"


@pytest.fixture
def shops():
    Shop.cache.clear()
    Shop.calls = 0
    return Shop("a"), Shop("b")


def test_methods(shops):
    a, b = shops
    for _ in range(2):
        assert a.price("tea") == "a: tea"
        assert b.price(what="tea") == "b: tea"
    assert Shop.calls == 2
    assert Shop.price.invalidate(a, "tea")
    assert not Shop.price.invalidate(b, "tea")  # called by keyword: another entry
    assert a.price.__doc__ == "Of a thing."


def test_methods_with_a_key(shops):
    a, b = shops
    assert a.stock("tea") == Shop("a").stock("tea") == "tea"
    assert Shop.calls == 1
    assert Shop.cache == {("Shop.stock", "a", "tea"): "tea"}
    assert Shop.stock.cache_key(b, "tea") == ("Shop.stock", "b", "tea")


def test_static_and_class_methods(shops):
    for _ in range(2):
        assert Shop.opens("monday") == shops[0].opens("monday") == "monday"
        assert Shop.kind(1) == (Shop, 1)
    assert Shop.calls == 2


def test_asynchronous_methods(shops):
    async def main():
        for _ in range(2):
            assert [await shop.order("tea") for shop in shops] == ["a: tea", "b: tea"]

    asyncio.run(main())
    assert Shop.calls == 2


# -- threads and tasks -----------------------------------------------------------------------------
def test_threads_run_it_once(cache, run_threads):
    started = threading.Semaphore(0)

    @memoize(cache)
    def slow(x):
        started.release()
        time.sleep(0.05)
        return [x]

    assert run_threads(*[lambda: slow(3)] * 8) == [[3]] * 8
    assert started.acquire(blocking=False)
    assert not started.acquire(blocking=False)


def test_tasks_run_it_once(cache):
    calls = []

    @memoize(cache, ttl=9)
    async def slow(x):
        calls.append(x)
        await asyncio.sleep(0.01)
        return None if x else "zero"

    assert inspect.iscoroutinefunction(slow)

    async def main():
        assert await asyncio.gather(*[slow(i % 2) for i in range(10)]) == ["zero", None] * 5
        assert sorted(calls) == [0, 1]
        assert await slow(1) is None
        assert await slow(0) == "zero"

    asyncio.run(main())
    asyncio.run(main())  # another loop, the same results
    assert sorted(calls) == [0, 1]
    assert set(cache.ttls.values()) == {9}
    assert slow.invalidate(1)
    asyncio.run(slow(1))
    assert sorted(calls) == [0, 1, 1]


def test_a_task_that_looked_before_another_landed_does_not_run_it_again(cache):
    """Between the look into the cache and the take-off another call may have ended."""
    calls = []

    class Late(StandIn):
        def get(self, key, default=None):
            found = super().get(key, default)
            if not calls:  # the first look finds nothing, and then the other call ends
                calls.append("other")
                self.set(key, "other's")
            return found

    @memoize(Late())
    async def f(x):
        calls.append(x)
        return x

    assert asyncio.run(f(1)) == "other's"
    assert calls == ["other"]


def test_a_cancelled_task_poisons_nobody(cache):
    calls = []

    @memoize(cache)
    async def f(x):
        calls.append(x)
        await asyncio.sleep(3600 if len(calls) == 1 else 0)
        return x

    async def main():
        first, second = (asyncio.create_task(f(1)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == 1
        assert first.cancelled()
        assert calls == [1, 1]

    asyncio.run(main())


def test_an_asynchronous_error_leaves_nothing(cache):
    @memoize(cache)
    async def f(x):
        raise KeyError(x)

    with pytest.raises(KeyError):
        asyncio.run(f(1))
    assert len(cache) == 0


# -- misuse ----------------------------------------------------------------------------------------
def test_an_argument_that_cannot_be_hashed(cache):
    @memoize(cache)
    def f(a, b=(), *rest, c=None):
        return 1

    for args, kwargs, text in [
        (([],), {}, r"argument 'a' of .*\.f is a list"), ((1, {}), {}, "argument 'b' of .* is a dict"),
        ((1, 2, 3, set()), {}, "argument 4 of .* is a set"),
        ((1,), {"c": bytearray()}, "'c' .* a bytearray"),
        ((), {"a": [1]}, "argument 'a'"), (((1, []),), {}, "argument 'a' of .* is a tuple that"),
    ]:
        with pytest.raises(UnhashableKeyError, match=text) as caught:
            f(*args, **kwargs)
        assert isinstance(caught.value, TypeError)
        assert "key=" in str(caught.value)
        with pytest.raises(UnhashableKeyError):
            f.invalidate(*args, **kwargs)


def test_a_key_function(cache):
    f = memoize(cache, key=lambda things: ("f", *things))(lambda things: sum(things))
    assert f([1, 2]) == 3
    assert f((1, 2)) == 3
    assert cache == {("f", 1, 2): 3}
    with pytest.raises(UnhashableKeyError, match="key= of .* returned a list"):
        memoize(cache, key=list)(one)((1, 2))


def test_key_functions_of_callables_without_a_name(cache):
    class Adder:
        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return self.n + x

        def add(self, x):
            return self.n + x

    two = Adder(2)
    for name, function in [("partial", functools.partial(max, 5)), ("object", two), ("bound", two.add)]:
        with pytest.raises(UsageError, match="key="):
            memoize(cache)(function)
        f = memoize(cache, key=lambda x: (name, x))(function)
        assert f(3) == 5
        assert cache[name, 3] == 5


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize(("function", "text"), [
    (lambda x: x, "no name of its own"), (generator, "generator"), (async_generator, "generator"),
    (5, "not 5"), (staticmethod(one), "below"), (classmethod(one), "below"),
])
def test_what_cannot_be_memoized(cache, function, text):
    with pytest.raises(UsageError, match=text):
        memoize(cache)(function)


# -- without parentheses ---------------------------------------------------------------------------
def test_without_parentheses():
    calls = []
    with Cache("4MiB") as cache:
        @cache.memoize
        def double(n: int) -> int:
            """Twice."""
            calls.append(n)
            return 2 * n

        class Box:
            @cache.memoize
            def size(self, n: int) -> int:
                calls.append(n)
                return n

            @staticmethod
            @cache.memoize
            def half(n: int) -> int:
                calls.append(n)
                return n // 2

            def __hash__(self) -> int:
                return 1

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Box)

            def __reduce__(self):
                return Box, ()

        assert double(4) == double(4) == 8 and calls == [4]
        assert double.__name__ == "double" and double.__doc__ == "Twice." and double.__wrapped__(1) == 2
        assert double.invalidate(4) and not double.invalidate(4)
        assert cache.memoize()(double.__wrapped__)(4) == 8
        assert cache[double.cache_key(4)] == 8
        calls.clear()
        assert Box().size(5) == Box().size(5) == 5 and Box.half(9) == Box.half(9) == 4
        assert calls == [5, 9]


def test_async_without_parentheses():
    calls = []

    async def main(cache):
        @cache.memoize
        async def double(n):
            calls.append(n)
            await asyncio.sleep(0)
            return 2 * n

        assert inspect.iscoroutinefunction(double)
        assert await asyncio.gather(double(1), double(1), double(2)) == [2, 2, 4]
        assert await double(1) == 2
        assert double.invalidate(1)

    with Cache("4MiB") as cache:
        asyncio.run(main(cache))
    assert calls == [1, 2]


@pytest.mark.parametrize("wrong", [60, "name", staticmethod(print), lambda: 0])
def test_what_is_no_function_without_parentheses(wrong):
    with Cache("4MiB") as cache, pytest.raises(UsageError, match="memoize"):
        cache.memoize(wrong)
