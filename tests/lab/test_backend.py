"""zbud and z3fold: what they take, where it goes, what moves, and what misuse raises."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from coldmem.errors import (
    ClosedError,
    DoubleFreeError,
    EnvironmentFailure,
    ForeignHandleError,
    HandleBusyError,
    InvalidSizeError,
    MemoryLimitError,
    StaleHandleError,
    UsageError,
)
from coldmem.lab.backend import Backend
from coldmem.lab.backends import Backends

PAGE, CHUNK = 4096, 64
KINDS = ("zbud", "z3fold")
ROOM = PAGE - CHUNK  # beside the header


def data(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng([size, seed]).bytes(size)


@pytest.fixture(params=KINDS)
def pool(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with Backend(request.param, limit="1M") as made:
        yield made
        made.check_valid()


@pytest.fixture
def zbud() -> Iterator[Backend]:
    with Backend("zbud", limit="1M") as made:
        yield made
        made.check_valid()


@pytest.fixture
def z3fold() -> Iterator[Backend]:
    with Backend("z3fold", limit="1M") as made:
        yield made
        made.check_valid()


# -- where objects go -------------------------------------------------------------------------------
def test_zbud_puts_two_objects_in_a_page_and_no_third(zbud: Backend) -> None:
    for _ in range(3):
        zbud.store(data(100))
    assert zbud.stats().pages == 2 and zbud.used_bytes == 2 * PAGE
    assert zbud.stats().full_pages == 1


def test_z3fold_puts_three_objects_in_a_page_and_no_fourth(z3fold: Backend) -> None:
    for _ in range(4):
        z3fold.store(data(100))
    assert z3fold.stats().pages == 2 and z3fold.stats().full_pages == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "together"), [(ROOM // 2, True), (ROOM // 2 + 33, False)])
def test_two_objects_share_a_page_if_their_chunks_fit(kind: str, size: int, together: bool) -> None:
    with Backend(kind) as pool:
        first = pool.store(data(size))  # 2016 bytes are 31.5 chunks: 32
        second = pool.store(data(31 * CHUNK))
        assert pool.stats().pages == (1 if together else 2)
        assert pool.read(first) == data(size) and pool.read(second) == data(31 * CHUNK)
        pool.check_valid()


def test_the_fullest_page_that_has_room_is_taken(pool: Backend) -> None:
    large = pool.store(data(3000))
    small = pool.store(data(1200))  # does not fit beside it
    assert pool.stats().pages == 2
    pool.store(data(900))  # fits both: goes to the large one, which has less room
    pool.store(data(2500))  # still fits beside the small one
    assert pool.stats().pages == 2
    assert pool.size_of(large) == 3000 and pool.size_of(small) == 1200


def test_what_each_takes() -> None:
    with Backend("zbud") as zbud, Backend("z3fold") as z3fold:
        assert (zbud.object_bytes_max, z3fold.object_bytes_max) == (ROOM - CHUNK, PAGE)
        for pool in (zbud, z3fold):
            handle = pool.store(data(ROOM - CHUNK))
            assert pool.read(handle) == data(ROOM - CHUNK)
            assert pool.stats().headless_pages == 0
            for wrong in (0, -1, PAGE + 1):
                with pytest.raises(InvalidSizeError, match=f"object of {wrong} bytes"):
                    pool.malloc(wrong)
        for size in (ROOM - CHUNK + 1, PAGE):
            with pytest.raises(InvalidSizeError, match="zbud stores 1 to 3968 bytes"):
                zbud.store(data(size))
            handle = z3fold.store(data(size))
            assert z3fold.read(handle) == data(size)
        assert zbud.stats().refused == 2 and zbud.stats().objects == 1
        assert z3fold.stats().refused == 0
        assert z3fold.stats().headless_pages == 2 and z3fold.stats().pages == 3
        z3fold.check_valid()
        z3fold.free(handle)
        assert z3fold.stats().headless_pages == 1 and z3fold.used_bytes == 2 * PAGE
        with pytest.raises(DoubleFreeError):
            z3fold.free(handle)
        z3fold.check_valid()


def test_an_empty_page_goes_back(pool: Backend) -> None:
    handles = [pool.store(data(500, i)) for i in range(60)]
    for handle in handles[::2] + handles[1::2]:
        pool.free(handle)
        pool.check_valid()
    assert pool.used_bytes == 0 and pool.stats().pages == 0
    assert pool.stats().resident_free_bytes > 0
    assert pool.trim() > 0 and pool.stats().resident_free_bytes == 0


# -- what moves -------------------------------------------------------------------------------------
def three(pool: Backend, *sizes: int) -> tuple[int, int, int]:
    """First, last and middle of one page: places are taken in this order."""
    first, last, middle = (pool.store(data(size, i)) for i, size in enumerate(sizes))
    assert pool.stats().pages == 1
    return first, last, middle


def test_the_middle_becomes_the_first_when_it_is_alone(z3fold: Backend) -> None:
    first, last, middle = three(z3fold, 1000, 1000, 1000)
    z3fold.free(first)
    z3fold.free(last)
    assert z3fold.read(middle) == data(1000, 2)
    assert z3fold.stats().objects_moved == 2  # up to the last, then to the front
    # All the rest of the page is free in one piece.
    z3fold.store(data(ROOM - 1024))
    assert z3fold.stats().pages == 1


def test_the_middle_moves_up_when_the_first_goes(z3fold: Backend) -> None:
    first, last, middle = three(z3fold, 1000, 500, 700)
    z3fold.free(first)
    assert z3fold.stats().objects_moved == 1
    # 63 chunks less 8 less 11: one object of 44 chunks fits before the middle.
    again = z3fold.store(data(44 * CHUNK, 9))
    assert z3fold.stats().pages == 1
    for handle, expected in ((last, data(500, 1)), (middle, data(700, 2)),
                             (again, data(44 * CHUNK, 9))):
        assert z3fold.read(handle) == expected


def test_the_middle_moves_down_when_the_last_goes(z3fold: Backend) -> None:
    first, last, middle = three(z3fold, 1000, 500, 700)
    # The middle lies beside the first already, so nothing is gained when the last goes.
    z3fold.free(last)
    assert z3fold.stats().objects_moved == 0
    # A shorter first one leaves a gap, and with it the last goes: now the middle moves down.
    z3fold.store(data(500, 5))
    z3fold.free(first)
    again = z3fold.store(data(100, 6))  # two chunks instead of sixteen
    assert z3fold.stats().pages == 1
    assert z3fold.read(middle) == data(700, 2) and z3fold.read(again) == data(100, 6)


def test_a_middle_that_is_read_stays_and_is_settled_later(z3fold: Backend) -> None:
    first, last, middle = three(z3fold, 1000, 1000, 1000)
    with z3fold.view(middle) as seen:
        z3fold.free(first)
        z3fold.free(last)
        z3fold.check_valid()
        assert z3fold.stats().objects_moved == 0
        assert bytes(seen) == data(1000, 2)
        # What fits beside it still finds its place.
        beside = z3fold.store(data(800, 7))
        assert z3fold.stats().pages == 1
        z3fold.free(beside)
    assert z3fold.compact() == 0  # no page becomes free, but the free chunks are joined
    z3fold.check_valid()
    assert z3fold.read(middle) == data(1000, 2)
    z3fold.store(data(ROOM - 1024))
    assert z3fold.stats().pages == 1


def test_what_does_not_fit_before_a_middle_that_is_read_goes_behind_it(z3fold: Backend) -> None:
    first, last, middle = three(z3fold, 1000, 1000, 1000)
    with z3fold.view(middle) as seen:
        z3fold.free(first)
        z3fold.free(last)
        behind = z3fold.store(data(17 * CHUNK, 7))  # sixteen chunks are free before it
        z3fold.check_valid()
        before = z3fold.store(data(16 * CHUNK, 8))
        z3fold.check_valid()
        assert z3fold.stats().pages == 1 and bytes(seen) == data(1000, 2)
    assert z3fold.read(behind) == data(17 * CHUNK, 7)
    assert z3fold.read(before) == data(16 * CHUNK, 8)


def test_z3fold_compacts_lone_objects(z3fold: Backend) -> None:
    handles = [z3fold.store(data(1200, i)) for i in range(30)]
    assert z3fold.stats().pages == 10
    for i in range(0, 30, 3):  # two of each page
        z3fold.free(handles[i])
        z3fold.free(handles[i + 1])
    left = {handles[i]: data(1200, i) for i in range(2, 30, 3)}
    assert z3fold.used_bytes == 10 * PAGE
    assert z3fold.compact() == 6
    z3fold.check_valid()
    assert z3fold.used_bytes == 4 * PAGE and z3fold.stats().pages_compacted == 6
    assert {h: z3fold.read(h) for h in left} == left
    assert z3fold.compact() == 0


def test_a_large_lone_object_moves_beside_small_ones(z3fold: Backend) -> None:
    first = z3fold.store(data(20 * CHUNK, 1))
    small = [z3fold.store(data(10 * CHUNK, i)) for i in (2, 3)]
    large = z3fold.store(data(40 * CHUNK, 4))
    assert z3fold.stats().pages == 2
    z3fold.free(first)
    assert z3fold.compact() == 1
    z3fold.check_valid()
    assert z3fold.read(large) == data(40 * CHUNK, 4)
    assert [z3fold.read(h) for h in small] == [data(10 * CHUNK, i) for i in (2, 3)]


def test_compaction_leaves_what_is_read(z3fold: Backend) -> None:
    one, two = z3fold.store(data(3000, 1)), z3fold.store(data(1500, 2))
    third = z3fold.store(data(900, 3))
    z3fold.free(z3fold.store(data(2500, 4)))
    z3fold.free(one)
    assert z3fold.stats().pages == 2
    with z3fold.view(third), z3fold.view(two):
        assert z3fold.compact() == 0
    assert z3fold.compact() == 1
    assert z3fold.read(two) == data(1500, 2) and z3fold.read(third) == data(900, 3)


def test_zbud_has_nothing_to_compact(zbud: Backend) -> None:
    handles = [zbud.store(data(1200, i)) for i in range(20)]
    for handle in handles[::2]:
        zbud.free(handle)
    assert zbud.compact() == 0 and zbud.stats().pages == 10
    assert [zbud.read(h) for h in handles[1::2]] == [data(1200, i) for i in range(1, 20, 2)]
    assert zbud.stats().objects_moved == 0


# -- the contract -----------------------------------------------------------------------------------
def test_write_and_views(pool: Backend) -> None:
    handle = pool.malloc(300)
    pool.write(handle, data(300))
    assert pool.read(handle) == data(300)
    pool.write(handle, b"abc")
    assert pool.read(handle) == b"abc" + data(300)[3:]
    pool.write(handle, b"")
    out = bytearray(310)
    assert pool.read_into(handle, out) == 300 and out[:3] == b"abc" and out[300:] == bytes(10)
    with pytest.raises(InvalidSizeError, match="buffer of 299"):
        pool.read_into(handle, bytearray(299))
    with pytest.raises(InvalidSizeError, match="do not fit"):
        pool.write(handle, data(301))
    view = pool.view(handle)
    with view as seen:
        assert seen.readonly and len(seen) == 300
        for busy in (lambda: pool.free(handle), lambda: pool.write(handle, b"x"), pool.close):
            with pytest.raises(HandleBusyError):
                busy()
    with pytest.raises(HandleBusyError, match="ended"):
        memoryview(view)
    pool.free(handle)


def test_a_view_with_slices_in_use_does_not_end(pool: Backend) -> None:
    handle = pool.store(data(100))
    view = pool.view(handle)
    array = np.frombuffer(view, np.uint8)  # type: ignore[call-overload]
    with pytest.raises(BufferError), view:
        pass
    assert array.tobytes() == data(100)
    del array
    gc.collect()
    with view:
        pass
    pool.free(handle)


def test_wrong_handles(pool: Backend) -> None:
    with Backend(pool.kind) as other:
        theirs = other.store(data(50))
        for call in (pool.free, pool.read, pool.size_of, pool.view):
            for handle in (theirs, 0, 12345, -1, 1 << 64, "x"):
                with pytest.raises(ForeignHandleError):
                    call(handle)  # type: ignore[arg-type, operator]
        handle = pool.store(data(50))
        with pytest.raises(ForeignHandleError):
            pool.free(handle + (1 << 32) - 1)  # an index that was never given out
        pool.free(handle)
        with pytest.raises(DoubleFreeError, match="freed already"):
            pool.free(handle)
        for call in (pool.read, pool.size_of, pool.view, lambda h: pool.write(h, b"x")):
            with pytest.raises(StaleHandleError):
                call(handle)  # type: ignore[operator]
        again = pool.store(data(60))
        assert again != handle
        with pytest.raises(StaleHandleError):
            pool.free(handle)  # its place is somebody else's now
        assert pool.read(again) == data(60)
        pool.free(again)


def test_the_limit_holds(pool: Backend) -> None:
    handles = []
    with pytest.raises(MemoryLimitError, match=r"has no room for 3000 bytes: 1.0 MiB of 1.0 MiB"):
        for i in range(1000):
            handles.append(pool.store(data(3000, i)))
    assert len(handles) == 256 and pool.used_bytes == pool.limit_bytes == 1 << 20
    assert pool.stats().peak_bytes == 1 << 20
    pool.check_valid()
    small = pool.store(data(900))  # there is room beside the large ones
    assert pool.read(small) == data(900)
    with pytest.raises(MemoryLimitError):
        pool.malloc(3000)
    pool.free(handles.pop())
    assert pool.read(pool.store(data(3001))) == data(3001)
    assert [pool.read(h) for h in handles] == [data(3000, i) for i in range(255)]


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="choose one of"):
        Backend("slab")
    with pytest.raises(UsageError, match="one page needs 4096"):
        Backend("zbud", limit=4095)
    with pytest.raises(UsageError, match="choose 1 to 256"):
        Backends("zbud", 0)
    with pytest.raises(EnvironmentFailure, match="address space"):
        Backend("z3fold", capacity=1 << 60)
    with Backend("zbud") as pool:
        with pytest.raises(UsageError, match="cannot be initialised twice"):
            pool.__init__("zbud")  # type: ignore[misc]
        with pytest.raises(UsageError, match="level"):
            pool.check_valid("thorough")
        with pytest.raises(UsageError, match="does not give its bytes"):
            pool.store(5)
    with pytest.raises(ClosedError):
        pool.store(b"x")
    pool.close()


@pytest.mark.parametrize("kind", KINDS)
def test_32_pools_share_a_limit(kind: str) -> None:
    with Backends(kind, 32, limit="256K") as pools:
        held = []
        with pytest.raises(MemoryLimitError):
            for i in range(100):
                pool = pools.pools[i % 32]
                held.append((pool, pool.store(data(3000, i)), data(3000, i)))
        assert len(held) == 64 and pools.used_bytes == 256 << 10 == pools.pools[5].used_bytes
        pools.check_valid()
        assert all(pool.read(handle) == expected for pool, handle, expected in held)
        with pytest.raises(ForeignHandleError):
            pools.pools[1].read(held[0][1])
        for pool, handle, _ in held[:32]:
            pool.free(handle)
        assert pools.used_bytes == 128 << 10
        pools.pools[0].close()  # what it still holds is given back to the others
        assert pools.used_bytes == 124 << 10
    assert len(pools) == 32 == len(list(pools))


def test_lock_statistics() -> None:
    with Backend("z3fold", lock_statistics=True) as pool, Backend("zbud") as silent:
        for p in (pool, silent):
            p.read(p.store(data(10)))
        counts = pool.lock_stats()
        # malloc twice (a page was made in between), write, read.
        assert counts["pool"].acquisitions == 4 and counts["arena"].acquisitions == 1
        assert silent.lock_stats()["pool"].acquisitions == 0
